"""`open_device`: which device a name gives, and what is said where it gives none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ndserve.devices import open_device
from ndserve.devices.base import DeviceUnavailableError
from ndserve.devices.cpu import CpuDevice
from ndserve.errors import StartupError


@pytest.fixture
def without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing CuPy fails, on a machine that has it, too."""
    monkeypatch.delitem(sys.modules, "ndserve.devices.cuda", raising=False)
    for name in ("array_api_compat", "array_api_compat.cupy", "cupy", "cupyx", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)


# As CuPy raises it: a page of advice, whose cause is what the loader said.
BROKEN_CUPY = """\
try:
    raise ImportError({reason!r})
except ImportError as error:
    raise ImportError("====\\nFailed to import CuPy.\\n\\nCheck the Installation Guide.\\n====") from error
"""


@pytest.fixture(params=["raise ImportError({reason!r})", BROKEN_CUPY], ids=["plain", "framed"])
def broken_cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """CuPy is installed and cannot be imported, as with a shared library missing; gives CuPy's reason."""
    reason = "libcublas.so.12: cannot open shared object file"
    for name in ("cupy", "ndserve.devices.cuda"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("array_api_compat", "array_api_compat.cupy"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    (tmp_path / "cupy.py").write_text(request.param.format(reason=reason))
    monkeypatch.syspath_prepend(tmp_path)
    return reason


def test_cpu_gives_the_cpu() -> None:
    device, why = open_device("cpu")
    assert isinstance(device, CpuDevice)
    assert why == "asked for by --device cpu"


@pytest.mark.usefixtures("without_cupy")
def test_auto_without_cupy_gives_the_cpu_and_says_what_is_missing() -> None:
    device, why = open_device("auto")
    assert isinstance(device, CpuDevice)
    assert why.startswith("no GPU can be used: CuPy is not installed")
    assert "ndserve[cuda12]" in why


@pytest.mark.usefixtures("without_cupy")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_without_cupy_is_an_error_that_says_what_is_missing(name: str) -> None:
    with pytest.raises(DeviceUnavailableError, match="CuPy is not installed"):
        open_device(name)


def test_a_cupy_that_cannot_be_imported_gives_its_own_reason(broken_cupy: str) -> None:
    _, why = open_device("auto")
    assert why == f"no GPU can be used: CuPy is installed but cannot be imported ({broken_cupy})"


@pytest.mark.parametrize(
    "name",
    [
        *("", "gpu", "CPU", "cuda 0", ":0", ":", "cpu:", "cpu:0", "cpu:1", "auto:", "auto:0"),
        *("cuda:", "cuda:x", "cuda:-1", "cuda:1.5", "cuda:0:1", "cuda:²"),
    ],
)
def test_an_unknown_name_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(StartupError, match="use auto, cpu, cuda or cuda:N") as raised:
        open_device(name)
    assert repr(name) in raised.value.message
    assert not isinstance(raised.value, DeviceUnavailableError)
