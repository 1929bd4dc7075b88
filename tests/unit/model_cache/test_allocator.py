"""What a load takes at its peak, in a process of its own, and when the C library is told to give memory back."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from ndserve.model_cache import allocator as allocators
from ndserve.model_cache.allocator import LARGE, USUAL, Allocator
from tests import onnx_models

MIB = 1 << 20
MARGIN = 16 * MIB
"""Bytes beyond what is booked for a load. It was 3 MiB; without `Allocator.loading` 57 MiB."""

LOAD = """
import re, sys
from functools import partial
from pathlib import Path

from ndserve.devices.cpu import CpuDevice
from ndserve.model_cache.costs import Costs
from ndserve.model_cache.loader import Loader
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.session import Session, check_runtime


def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


device = CpuDevice()
check_runtime(device)
loader = Loader(device, partial(Session.open, device=device, threads=1), Costs(None, "test", 1 << 40, on_host=True))
small, large = scan(Path(sys.argv[1]))
loader.load(small, loader.cost(small), judge=False)  # what the first load of all takes is the runtime's
cost = loader.cost(large)
Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
before = status("VmRSS")
loaded = loader.load(large, cost, judge=False)
print(status("VmHWM") - before, cost.loading)
"""


def convolutions() -> ModelProto:
    """60 MB of kernels, which are laid out anew while the model is loaded."""
    channels, count = 128, 100
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    names = ["x", *(f"h{number}" for number in range(1, count)), "y"]
    pads = [1, 1, 1, 1]
    nodes = [helper.make_node("Conv", [names[n], f"w{n}"], [names[n + 1]], pads=pads) for n in range(count)]
    axes: onnx_models.Axes = ["batch", channels, 4, 4]
    weights = {f"w{number}": weight for number in range(count)}
    return onnx_models.model(nodes, [onnx_models.tensor("x", axes)], [onnx_models.tensor("y", axes)], **weights)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc, whose malloc can be told")
def test_a_load_takes_no_more_than_is_booked_for_it(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "a-small")
    onnx_models.save(convolutions(), tmp_path, "b-large")
    told = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True, capture_output=True, text=True)
    peak, booked = map(int, told.stdout.split())
    assert 100 * MIB < booked < peak + MARGIN, "the model is not what the test is about"
    assert peak <= booked + MARGIN


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes from which on blocks are mapped, as they are set, and a 0 where memory is given back."""
    sizes: list[int] = []

    def tune(what: int, value: int) -> int:
        if what == allocators._MMAP_THRESHOLD:
            sizes.append(value)
        return 1

    calls = {"mallopt": tune, "malloc_trim": lambda keep: sizes.append(keep)}
    monkeypatch.setattr(allocators, "_find", calls.get)
    return sizes


def test_large_blocks_are_mapped_from_the_first_load_to_the_end_of_the_last(tuned: list[int]) -> None:
    allocator = Allocator()
    with allocator.loading():
        with allocator.loading():
            assert tuned == [LARGE]
        assert tuned == [LARGE, 0]
    assert tuned == [LARGE, 0, USUAL, 0]


def test_a_load_that_fails_leaves_the_usual_behind(tuned: list[int]) -> None:
    allocator = Allocator()
    with pytest.raises(ValueError, match="torn"), allocator.loading():
        raise ValueError("torn")
    assert tuned == [LARGE, USUAL, 0]


def test_loads_on_several_threads_are_counted(tuned: list[int]) -> None:
    allocator = Allocator()
    entered = threading.Barrier(4)

    def load() -> None:
        with allocator.loading():
            entered.wait(10)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [size for size in tuned if size] == [LARGE, USUAL]


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocators, "_find", lambda name: None)
    allocator = Allocator()
    with allocator.loading():
        allocator.give_back()
    assert allocator._loads == 0
