"""`tritonclient.http` loads models with a configuration and files of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from tests.e2e.running import RunningServer, serving
from tests.e2e.tritonclient.asking import outcome, refused
from tests.e2e.tritonclient.models import times
from tests.onnx_models import save

ONES = np.ones((1, 4), np.float32)
MODEL = times(7).SerializeToString()
FILE = "file:1/model.onnx"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save(times(2), folder, "there")
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server puts the files that it is sent."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(models: Path, temporary: Path) -> Iterator[RunningServer]:
    with serving(models=models, TMPDIR=str(temporary)) as running:
        yield running


@pytest.fixture
def there(client: InferenceServerClient) -> Iterator[str]:
    """A model as its folder has it; again so at the end."""
    yield "there"
    client.load_model("there")
    assert outcome(client, "there", ONES).tolist() == [[2] * 4]


def test_a_config_changes_how_a_model_is_batched(client: InferenceServerClient, there: str) -> None:
    change = {"max_batch_size": 5, "dynamic_batching": {"max_queue_delay_microseconds": 2000}}
    client.load_model(there, config=json.dumps(change))
    config = client.get_model_config(there)
    assert config["max_batch_size"] == 5
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 2000
    client.load_model(there)
    assert client.get_model_config(there)["max_batch_size"] == 32


def test_a_batch_size_of_0_turns_batching_off(client: InferenceServerClient, there: str) -> None:
    client.load_model(there, config='{"max_batch_size": 0}')
    config = client.get_model_config(there)
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [-1, 4])
    assert outcome(client, there, ONES).tolist() == [[2] * 4]


def test_the_config_that_a_model_has_can_be_sent_back(client: InferenceServerClient, there: str) -> None:
    config = client.get_model_config(there)
    client.load_model(there, config=json.dumps(config))
    assert client.get_model_config(there) == config


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"max_batch_size": -1}', "max_batch_size"),
        ('{"name": "another"}', "another"),
        ('{"ensemble_scheduling": {}}', "ensemble_scheduling"),
        ('{"backend": "tensorrt"}', "backend"),
        ('{"input": [{"name": "z"}]}', "z"),
        ('{"input": [{"name": "x", "data_type": "TYPE_INT8"}]}', "TYPE_INT8"),
    ],
)
def test_a_config_that_cannot_be_is_refused_and_changes_nothing(
    client: InferenceServerClient, there: str, config: str, word: str
) -> None:
    before = client.get_model_config(there)
    with refused(400, word):
        client.load_model(there, config=config)
    assert client.get_model_config(there) == before


def test_a_model_can_be_sent_whole(client: InferenceServerClient) -> None:
    client.load_model("sent", config="{}", files={FILE: MODEL})
    assert client.is_model_ready("sent", "1")
    assert outcome(client, "sent", ONES).tolist() == [[7] * 4]
    assert client.get_model_config("sent")["max_batch_size"] == 32


def test_several_versions_can_be_sent(client: InferenceServerClient) -> None:
    client.load_model(
        "sent_twice", config="{}", files={FILE: MODEL, "file:12/model.onnx": times(9).SerializeToString()}
    )
    assert client.get_model_metadata("sent_twice")["versions"] == ["1", "12"]
    assert outcome(client, "sent_twice", ONES).tolist() == [[9] * 4]


def test_a_model_that_is_sent_takes_the_place_of_the_folders_until_that_is_loaded_again(
    client: InferenceServerClient, there: str
) -> None:
    client.load_model(there, config='{"max_batch_size": 3}', files={"file:4/model.onnx": MODEL})
    assert client.get_model_metadata(there)["versions"] == ["4"]
    assert client.get_model_config(there)["max_batch_size"] == 3
    assert outcome(client, there, ONES).tolist() == [[7] * 4]
    with refused(404, "'1'"):
        client.get_model_metadata(there, "1")


def test_files_without_a_config_are_refused(client: InferenceServerClient) -> None:
    with refused(400, "config"):
        client.load_model("no_config", files={FILE: MODEL})
    assert not client.is_model_ready("no_config")


@pytest.mark.parametrize(
    "files", [{FILE: b"no model"}, {FILE: b""}, {"file:model.onnx": MODEL}, {"file:1/other": MODEL}]
)
def test_files_that_are_no_model_are_refused_and_leave_what_is_served(
    client: InferenceServerClient, there: str, files: dict[str, bytes]
) -> None:
    with refused(400, "'there'"):
        client.load_model(there, config="{}", files=files)
    assert outcome(client, there, ONES).tolist() == [[2] * 4]


@pytest.mark.parametrize(
    "path",
    [
        *("../../escaped", "1/../../../escaped", "/escaped", "1//../escaped", "..", ".", "", "1/", ".hidden/escaped"),
        *("1/..\\escaped", "1/%2e%2e/escaped", "1/nul\0escaped", "C:/escaped", "~/escaped", "1/" * 20 + "escaped"),
    ],
)
def test_no_file_gets_out_of_its_folder(
    client: InferenceServerClient, models: Path, temporary: Path, path: str
) -> None:
    with refused(400, "inside the model's folder"):
        client.load_model("escaping", config="{}", files={FILE: MODEL, f"file:{path}": b"out"})
    assert not client.is_model_ready("escaping")
    assert not Path("/escaped").exists()
    for folder in (models, temporary):
        assert not [file for _, _, files in os.walk(folder) for file in files if "escaped" in file]


def test_unknown_parameters_of_a_load_are_refused(client: InferenceServerClient, there: str) -> None:
    with refused(400, "sort"):
        client.load_model(there, config="{}", files={"sort": b"of"})


def test_the_files_of_a_model_go_when_it_is_unloaded(client: InferenceServerClient, temporary: Path) -> None:
    before = set(temporary.iterdir())
    client.load_model("passing", config="{}", files={FILE: MODEL})
    (folder,) = set(temporary.iterdir()) - before
    client.unload_model("passing")
    while folder.exists():  # it goes in the background
        assert client.is_server_live()
