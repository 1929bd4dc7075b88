"""Targets' inputs for JSON documents, and what the codec makes of a document."""

from __future__ import annotations

import json

import numpy as np

from ndserve.codecs.base import UNNAMED
from ndserve.codecs.json import JsonCodec
from ndserve.types import HostArray, Tensors, TensorSpec
from tests.unit.codecs.bodies import LIMIT

FLOAT = TensorSpec("x", np.dtype(np.float32))
BYTE = TensorSpec("n", np.dtype(np.uint8))
ANY = TensorSpec("any")


def decode(document: object, *specs: TensorSpec) -> Tensors:
    """What the codec makes of a JSON document; a string is the text itself."""
    text = document if isinstance(document, str) else json.dumps(document)
    return JsonCodec().decode(text.encode(), specs, LIMIT)


def the_one(document: object, *specs: TensorSpec) -> HostArray:
    tensors = decode(document, *specs)
    assert tensors.keys() == {UNNAMED}
    return tensors[UNNAMED]
