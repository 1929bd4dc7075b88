"""A process that calls a model: from a raw image to an answer, without leaving the device."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from ndserve.processes.base import ModelCall, process, require_real
from ndserve.types import Array, TensorSpec


@process("classify_digit", batched=True, inputs=[TensorSpec("image", shape=(None, 8, 8))], models=["digits"])
def classify_digit(xp: ModuleType, models: Mapping[str, ModelCall], image: Array) -> dict[str, Array]:
    """`label` (int64, 0 to 9) and `confidence` (float32, 0 to 1) of 8x8 images of any real dtype, values 0 to 16.

    Raises:
        TypeError: the images are complex.
    """
    require_real(xp, image, "classify_digit")
    probabilities = models["digits"](xp.astype(image, xp.float32))
    return {"label": xp.argmax(probabilities, axis=-1), "confidence": xp.max(probabilities, axis=-1)}
