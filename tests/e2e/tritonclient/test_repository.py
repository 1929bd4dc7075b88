"""`tritonclient.http` loads and unloads what a repository holds, and lists it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from ndserve.types import HostArray
from tests.e2e.running import MODELS, RunningServer, serving
from tests.e2e.tritonclient.asking import (
    connected,
    given,
    lane_held,
    outcome,
    refused,
    wait_until_queued,
)
from tests.e2e.tritonclient.models import times
from tests.onnx_models import save

ONES = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository to which each test adds its own model."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "digits", folder / "digits")
    save(times(2), folder, "there")
    save(times(2), folder, "short_lived")
    broken = folder / "broken.onnx"
    broken.write_bytes(b"no model at all")
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    with serving(models=models) as running:
        yield running


@pytest.fixture
def digits(client: InferenceServerClient) -> Iterator[None]:
    """The model `digits`, and the process `classify_digit` that calls it; loaded again at the end."""
    assert client.is_model_ready("classify_digit")
    yield
    client.load_model("digits")
    client.load_model("classify_digit")


def test_the_index_lists_models_and_processes_and_what_is_broken(client: InferenceServerClient) -> None:
    entries = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert entries["there"] == {"name": "there", "version": "1", "state": "READY"}
    assert entries["softmax"] == {"name": "softmax", "version": "1", "state": "READY"}
    assert entries["broken"]["state"] == "UNAVAILABLE"
    assert entries["broken"]["reason"]
    assert "/" not in entries["broken"]["reason"]


def test_a_model_that_came_later_is_listed_without_a_state_until_it_is_loaded(
    client: InferenceServerClient, models: Path
) -> None:
    save(times(5), models, "later")
    assert {"name": "later"} in client.get_model_repository_index()
    assert not client.is_model_ready("later")
    client.load_model("later")
    assert {"name": "later", "version": "1", "state": "READY"} in client.get_model_repository_index()
    assert outcome(client, "later", ONES).tolist() == [[5] * 4]


def test_a_version_that_came_later_answers_once_it_is_loaded(client: InferenceServerClient, models: Path) -> None:
    save(times(2), models, "growing")
    client.load_model("growing")
    save(times(3), models, "growing", version=2)
    assert outcome(client, "growing", ONES).tolist() == [[2] * 4]
    client.load_model("growing")
    assert outcome(client, "growing", ONES).tolist() == [[3] * 4]
    assert outcome(client, "growing", ONES, model_version="1").tolist() == [[2] * 4]


def test_an_unloaded_model_is_not_ready_says_so_and_comes_back(client: InferenceServerClient, models: Path) -> None:
    save(times(2), models, "coming")
    client.load_model("coming")
    client.unload_model("coming")
    assert not client.is_model_ready("coming")
    assert not client.is_model_ready("coming", "1")
    with refused(503, "'coming'", "unloaded"):
        outcome(client, "coming", ONES)
    with refused(503, "'coming'", "unloaded"):
        client.get_model_metadata("coming")
    client.load_model("coming")
    assert client.is_model_ready("coming")
    assert outcome(client, "coming", ONES).tolist() == [[2] * 4]


def test_an_unloaded_model_is_listed_with_the_reason(client: InferenceServerClient, models: Path) -> None:
    save(times(2), models, "leaving")
    client.load_model("leaving")
    client.unload_model("leaving")
    (entry,) = [entry for entry in client.get_model_repository_index() if entry["name"] == "leaving"]
    assert entry["state"] in ("UNLOADING", "UNAVAILABLE")
    assert (entry["version"], entry["reason"]) == ("1", "unloaded")


def test_unloading_twice_is_refused(client: InferenceServerClient, models: Path) -> None:
    save(times(2), models, "twice")
    client.load_model("twice")
    client.unload_model("twice")
    with refused(503, "'twice'"):
        client.unload_model("twice")


def test_what_was_sent_before_an_unload_is_answered(server: RunningServer, models: Path, tmp_path: Path) -> None:
    """It is queued behind a held lane, and the model is unloaded then."""

    def infer() -> HostArray:
        with connected(server) as client:
            return outcome(client, "short_lived", ONES)

    with ThreadPoolExecutor(1) as threads, connected(server) as client:
        with lane_held(server, tmp_path / "pipe"):
            sent = threads.submit(infer)
            wait_until_queued(server, 2)
            client.unload_model("short_lived")
            (entry,) = [entry for entry in client.get_model_repository_index() if entry["name"] == "short_lived"]
            assert entry["state"] == "UNLOADING"
            with refused(503, "unloaded"):
                outcome(client, "short_lived", ONES)
            assert not sent.done()
        assert sent.result().tolist() == [[2] * 4]


def test_an_unknown_model_cannot_be_loaded(client: InferenceServerClient) -> None:
    with refused(400, "nobody"):
        client.load_model("nobody")


def test_an_unknown_model_cannot_be_unloaded(client: InferenceServerClient) -> None:
    with refused(404, "nobody"):
        client.unload_model("nobody")


def test_a_broken_file_cannot_be_loaded_and_the_answer_says_why(client: InferenceServerClient) -> None:
    with refused(400, "'broken'", "cannot be served") as raised:
        client.load_model("broken")
    assert str(Path.cwd()) not in raised.value.message()


def test_a_file_that_has_become_bad_leaves_what_is_served(client: InferenceServerClient, models: Path) -> None:
    file = save(times(2), models, "spoilt")
    client.load_model("spoilt")
    file.write_bytes(b"no model at all")
    with refused(400, "'spoilt'"):
        client.load_model("spoilt")
    assert outcome(client, "spoilt", ONES).tolist() == [[2] * 4]


@pytest.mark.parametrize("name", ["..", ".", "a b", "%2e%2e"])
def test_a_name_that_no_model_can_have_is_refused(client: InferenceServerClient, name: str) -> None:
    with refused(400, "cannot be called"):
        client.load_model(name)


def test_a_process_is_unloaded_and_loaded_again(client: InferenceServerClient) -> None:
    client.unload_model("softmax")
    assert not client.is_model_ready("softmax")
    with refused(503, "'softmax'"):
        outcome(client, "softmax", ONES)
    client.load_model("softmax")
    assert outcome(client, "softmax", ONES).tolist() == [[0.25] * 4]


def test_a_process_takes_no_configuration(client: InferenceServerClient) -> None:
    with refused(400, "'softmax'", "process"):
        client.load_model("softmax", config="{}")


@pytest.mark.usefixtures("digits")
def test_a_process_goes_without_its_models(client: InferenceServerClient) -> None:
    client.unload_model("classify_digit")
    assert client.is_model_ready("digits")


@pytest.mark.usefixtures("digits")
def test_a_process_takes_its_models_along_where_that_is_asked(client: InferenceServerClient) -> None:
    client.unload_model("classify_digit", unload_dependents=True)
    assert not client.is_model_ready("digits")


@pytest.mark.usefixtures("digits")
def test_a_process_whose_model_is_unloaded_names_it(client: InferenceServerClient) -> None:
    images = [given("image", np.zeros((1, 8, 8), np.float32))]
    client.unload_model("digits")
    with refused(503, "'classify_digit'", "digits"):
        client.infer("classify_digit", images)
    client.load_model("digits")
    assert client.infer("classify_digit", images).as_numpy("label").shape == (1,)
