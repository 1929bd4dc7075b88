"""A task's result as an Open Inference response. The protocol has no media types of its own; these are ndserve's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from ndserve.codecs.base import Payload
from ndserve.codecs.open_inference.datatypes import BINARY_ONLY, DATATYPES
from ndserve.codecs.open_inference.request import Request
from ndserve.codecs.open_inference.response import NOWHERE, Origin, encode
from ndserve.types import Tensors

BINARY_TYPE = "application/vnd.open-inference+octet-stream"
JSON_TYPE = "application/vnd.open-inference+json"


@dataclass(frozen=True)
class OpenInferenceForm:
    """All outputs, as raw bytes behind the JSON or in it, under the names of their model and task."""

    binary: bool
    origin: Origin = NOWHERE
    task_id: str = ""

    @property
    def media_types(self) -> tuple[str, ...]:
        return (BINARY_TYPE if self.binary else JSON_TYPE,)

    @property
    def cheap(self) -> bool:
        return self.binary

    def of(self, origin: Origin, task_id: str) -> Self:
        """The form for the outputs of one task."""
        return replace(self, origin=origin, task_id=task_id)

    def holds(self, outputs: Tensors) -> bool:
        """Whether the protocol has datatypes for the outputs, and JSON as well where they go into it."""
        datatypes = [DATATYPES.get(array.dtype) for array in outputs.values()]
        return None not in datatypes and (self.binary or BINARY_ONLY.isdisjoint(datatypes))

    def encode(self, outputs: Tensors) -> Payload:
        """The response.

        Raises:
            NotAcceptableError: an output has no such form.
        """
        asked = Request(self.task_id, MappingProxyType({}), (), None, self.binary)
        payload = encode(self.origin, asked, outputs)
        return payload._replace(content_type=(BINARY_TYPE if payload.headers else JSON_TYPE).encode())
