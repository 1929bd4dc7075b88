"""The keys of a model.toml that say how a model is loaded: its warm-up and its execution providers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk import model_toml
from ndserve.model_cache.disk.model_toml import fit_warmup, read_options
from ndserve.model_cache.disk.repository import scan
from ndserve.model_info import ModelOptions, Shapes
from ndserve.types import TensorSpec
from tests import onnx_models


def read(tmp_path: Path, text: str) -> ModelOptions:
    path = tmp_path / "model.toml"
    path.write_text(text)
    return read_options(path)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith("model.toml: ")
    return caught.value.message


def fitted(tmp_path: Path, text: str, *inputs: TensorSpec) -> tuple[Shapes, ...] | None:
    return fit_warmup(read(tmp_path, text), inputs).warmup


def test_every_option_is_a_key() -> None:
    assert list(model_toml._PARSERS) == [field.name for field in fields(ModelOptions)]


IMAGE = TensorSpec("image", np.dtype(np.float32), (None, 3, None))
A, B = TensorSpec("a", np.dtype(np.float32), (None, 3)), TensorSpec("b", np.dtype(np.float32))


@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        ("", [IMAGE], None),
        ("warmup = []", [IMAGE], ()),
        ("warmup = [[1, 3, 5], [8, 3, 9]]", [IMAGE], ((("image", (1, 3, 5)),), (("image", (8, 3, 9)),))),
        ("warmup = [{image = [1, 3, 5]}]", [IMAGE], ((("image", (1, 3, 5)),),)),
        ("warmup = [{b = [7], a = [1, 3]}]", [A, B], ((("a", (1, 3)), ("b", (7,))),)),
        ("warmup = [[]]", [TensorSpec("scalar", None, ())], ((("scalar", ()),),)),
        ("warmup = [{}]", [], ((),)),
        ("warmup = [[65536, 3, 10922]]", [IMAGE], ((("image", (65536, 3, 10922)),),)),
    ],
)
def test_a_warmup_has_a_shape_for_each_input_in_the_models_order(
    tmp_path: Path, text: str, inputs: list[TensorSpec], expected: tuple[Shapes, ...] | None
) -> None:
    assert fitted(tmp_path, text, *inputs) == expected


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("true", "must be a list of shapes or of tables"),
        ("{image = [1]}", "must be a list of shapes or of tables"),
        ("[1, 3]", "shapes of positive whole numbers, not 1"),
        ("[[0]]", r"not [0]"),
        ("[[-1, 3]]", "not [-1, 3]"),
        ("[[1.0]]", "not [1.0]"),
        ("[[true]]", "not [True]"),
        ("[['n']]", "not ['n']"),
        ("[{a = 1}]", "not 1"),
        ("[{a = [1, [2]]}]", "positive whole numbers"),
        ("[{'' = [1]}]", "without a name"),
        ("[[65536, 32769]]", "at most 2147483648 elements"),
        ("[[" + "9" * 4000 + "]]", "at most 2147483648 elements"),
        ("[" + "[1]," * 65 + "]", "has 65 entries; at most 64"),
    ],
)
def test_a_warmup_that_cannot_be_is_refused(tmp_path: Path, value: str, told: str) -> None:
    message = refused(tmp_path, f"warmup = {value}")
    assert told in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("value", "inputs", "told"),
    [
        ("[[1, 3]]", [A, B], "the shape [1, 3] without an input's name, but the model takes a: float32[?, 3], b:"),
        ("[[1]]", [], "but the model takes nothing"),
        ("[{a = [1, 3]}]", [A, B], "has shapes for a; the model takes a"),
        ("[{a = [1, 3], b = [1], c = [1]}]", [A, B], "has shapes for a, b, c; the model takes a"),
        ("[{}]", [A], "has shapes for nothing; the model takes a"),
        ("[[1, 4]]", [A], "has the shape [1, 4] for a: float32[?, 3]"),
        ("[[1, 3], [3]]", [A], "has the shape [3] for a: float32[?, 3]"),
        ("[[1, 3, 1]]", [A], "has the shape [1, 3, 1] for a: float32[?, 3]"),
    ],
)
def test_a_warmup_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, value: str, inputs: list[TensorSpec], told: str
) -> None:
    with pytest.raises(ModelLoadError) as caught:
        fitted(tmp_path, f"warmup = {value}", *inputs)
    assert told in caught.value.message


def test_a_warmup_that_fits_one_version_alone_is_the_problem_of_the_others(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(["n", 4]), tmp_path, "m", 1, "warmup = [[2, 4]]")
    onnx_models.save(onnx_models.double(["n", 5]), tmp_path, "m", 2)
    first, second = scan(tmp_path)
    assert (first.problem, first.options.warmup) == ("", ((("x", (2, 4)),),))
    assert second.problem == "warmup has the shape [2, 4] for x: float32[?, 5]"


@pytest.mark.parametrize("value", [["cpu"], ["cuda", "cpu"], ["tensorrt", "cuda", "cpu"]])
def test_providers_keep_their_order(tmp_path: Path, value: list[str]) -> None:
    assert read(tmp_path, f"providers = {value}").providers == tuple(value)


@pytest.mark.parametrize(
    "value", ["'cuda'", "[]", "['rocm']", "['CUDA']", "['cpu', 'cpu']", "[1]", "[{}]", "[['cpu']]"]
)
def test_providers_that_cannot_be_are_refused_with_the_known_ones(tmp_path: Path, value: str) -> None:
    assert "providers must be a list of different names out of tensorrt, cuda, cpu, not" in refused(
        tmp_path, f"providers = {value}"
    )


def test_provider_options_become_texts_as_onnxruntime_takes_them(tmp_path: Path) -> None:
    options = read(
        tmp_path,
        "[provider_options.tensorrt]\ntrt_fp16_enable = true\ntrt_int8_enable = false\ntrt_max_workspace_size = 1024\n"
        "[provider_options.cuda]\ncudnn_conv_algo_search = 'EXHAUSTIVE'\nratio = 0.5\n[provider_options.cpu]\n",
    )
    assert options.provider_options == (
        ("tensorrt", (("trt_fp16_enable", "1"), ("trt_int8_enable", "0"), ("trt_max_workspace_size", "1024"))),
        ("cuda", (("cudnn_conv_algo_search", "EXHAUSTIVE"), ("ratio", "0.5"))),
        ("cpu", ()),
    )


@pytest.mark.parametrize(
    "key",
    [
        *("device_id", "user_compute_stream", "has_user_compute_stream"),
        *("trt_extra_plugin_lib_paths", "trt_engine_decryption_lib_path"),
        *("trt_onnx_model_folder_path", "trt_onnx_bytestream", "trt_onnx_bytestream_size"),
        *("gpu_external_alloc", "gpu_external_free", "gpu_external_empty_cache", "default_memory_arena_cfg"),
    ],
)
@pytest.mark.parametrize("provider", ["tensorrt", "cuda", "cpu"])
def test_options_that_are_the_servers_or_load_code_are_refused(tmp_path: Path, provider: str, key: str) -> None:
    message = refused(tmp_path, f"[provider_options.{provider}]\n{key} = '1'")
    assert f"cannot set {provider}.{key}: that is the server's own, or would load foreign code" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("provider_options = 1", "must be a table by provider"),
        ("[provider_options]\ncuda = 1", "must be a table by provider"),
        ("[provider_options.rocm]", "has 'rocm'; known are tensorrt, cuda, cpu"),
        ("[provider_options.cuda]\na = [1]", "has [1] for cuda.a; it must be a text"),
        ("[provider_options.cuda]\na = {b = 1}", "for cuda.a"),
        ("[provider_options.cuda]\na = nan", "has nan for cuda.a"),
        ("[provider_options.cuda]\na = -inf", "has -inf for cuda.a"),
        ("[provider_options.cuda]\na = 2026-01-01", "for cuda.a"),
        ("providers = ['cpu']\n[provider_options.cuda]", "has 'cuda', which is not among providers"),
    ],
)
def test_provider_options_that_cannot_be_are_refused(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused(tmp_path, text)
