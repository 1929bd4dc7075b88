"""The repository's own model on a device, and what it says on the CPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ndserve.devices.base import Device
from ndserve.model_cache.disk import repository
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo
from ndserve.types import HostArray

MODELS = Path(__file__).parents[2] / "models"


@cache
def images() -> HostArray:
    with np.load(MODELS / "digits" / "samples" / "heldout.npz") as heldout:
        return np.asarray(heldout["images"], np.float32)


@cache
def digits() -> ModelInfo:
    (info,) = (info for info in repository.scan(MODELS) if info.name == "digits")
    return info


@cache
def on_the_cpu() -> HostArray:
    """What onnxruntime's CPU provider says of the images."""
    session = ort.InferenceSession(str(digits().path), providers=["CPUExecutionProvider"])
    probabilities: HostArray = session.run(["probabilities"], {"image": images()})[0]
    return probabilities


def run(device: Device, session: Session, **inputs: HostArray) -> dict[str, HostArray]:
    outputs = session.run({name: device.to_device([array]) for name, array in inputs.items()})
    return {name: device.to_host(array) for name, array in outputs.items()}
