"""The Open Inference Protocol v2 over HTTP, with the extensions of Triton that `documents.EXTENSIONS` names.

Everything under `/v2` is plain ASGI: the protocol has its own form of errors, which clients rely on, and its own
status codes. Paths: https://github.com/triton-inference-server/server/blob/main/src/http_server.cc
"""

from ndserve.routes.open_inference.routes import OpenInferenceRoutes

__all__ = ["OpenInferenceRoutes"]
