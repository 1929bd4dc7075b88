"""The Open Inference Protocol v2, with Triton's binary tensors and classification.

A message is JSON that names its tensors. Their values stand in the JSON, or as raw bytes behind it; a header then says
how long the JSON is. The protocol:
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from ndserve.codecs.open_inference.form import BINARY_TYPE, JSON_TYPE, OpenInferenceForm
from ndserve.codecs.open_inference.request import CACHED, Asked, Request, arrays_of, decode, decode_document, is_request
from ndserve.codecs.open_inference.response import NOWHERE, Origin, check_outputs, encode, is_binary

LENGTH_HEADER = b"inference-header-content-length"
"""The header that counts the bytes of a message's JSON, in lower case as ASGI gives it."""

__all__ = [
    "BINARY_TYPE",
    "CACHED",
    "JSON_TYPE",
    "LENGTH_HEADER",
    "NOWHERE",
    "Asked",
    "OpenInferenceForm",
    "Origin",
    "Request",
    "arrays_of",
    "check_outputs",
    "decode",
    "decode_document",
    "encode",
    "is_binary",
    "is_request",
]
