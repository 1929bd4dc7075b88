"""Index, load and unload: bodies, answers, and what a load changes."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ndserve.testing import InProcessServer, serving
from tests import onnx_models
from tests.routes.open_inference.asking import PLAIN, document, post, refused, values

FOUR = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
MODEL: bytes = onnx_models.double(("batch", 4)).SerializeToString()
SENT = {"config": "{}", "file:1/model.onnx": base64.b64encode(MODEL).decode()}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InProcessServer]:
    """A server of its own, with the model m in its repository."""
    onnx_models.save(onnx_models.double(), tmp_path / "models", "m")
    with serving(models=tmp_path / "models") as started:
        yield started


def ask(server: InProcessServer, what: str, body: Any = b"") -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.http.post(f"/v2/repository/{what}", content=content, headers=PLAIN)


def load(server: InProcessServer, name: str = "m", **parameters: Any) -> Any:
    return ask(server, f"models/{name}/load", {"parameters": parameters} if parameters else b"")


def done(answer: Any) -> None:
    """A load or unload that has happened: 200 without a body."""
    assert (answer.status_code, answer.content) == (200, b""), answer.text


def ready(server: InProcessServer) -> set[str]:
    return {entry["name"] for entry in ask(server, "index", {"ready": True}).json()}


def test_the_index_has_name_version_and_state_and_leaves_out_what_is_empty(
    server: InProcessServer, tmp_path: Path
) -> None:
    onnx_models.save(onnx_models.double(), tmp_path / "models", "new")
    entries = {entry["name"]: entry for entry in ask(server, "index").json()}
    assert entries["m"] == {"name": "m", "version": "1", "state": "READY"}
    assert entries["new"] == {"name": "new"}


def test_the_index_may_list_only_what_is_ready(server: InProcessServer, tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path / "models", "new")
    done(ask(server, "models/m/unload"))
    assert not {"m", "new"} & ready(server)
    assert {"m", "new"} <= {entry["name"] for entry in ask(server, "index", {"ready": False}).json()}


@pytest.mark.parametrize("body", [b"", b" \r\n", b" " * 500, b"{}", b'{"ready": false}'])
def test_the_body_of_an_index_may_be_empty(server: InProcessServer, body: bytes) -> None:
    assert "m" in {entry["name"] for entry in ask(server, "index", body).json()}


def test_spaces_in_front_of_a_body_do_not_hide_it(server: InProcessServer) -> None:
    refused(ask(server, "index", b" " * 100 + b'{"ready": 1}'), 400, '"ready" must be true or false')


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"ready": "yes"}', b'{"ready": null}', b"\xff"])
def test_another_body_of_an_index_is_400(server: InProcessServer, body: bytes) -> None:
    refused(ask(server, "index", body), 400)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}', b"  "])
def test_a_load_of_what_lies_there_needs_no_body(server: InProcessServer, tmp_path: Path, body: bytes) -> None:
    onnx_models.save(onnx_models.double(), tmp_path / "models", "new")
    done(ask(server, "models/new/load", body))
    assert "new" in ready(server)
    assert values(post(server, "new", document(FOUR))) == [2, 4, 6, 8]


def test_a_model_is_unloaded_and_loaded(server: InProcessServer) -> None:
    done(ask(server, "models/m/unload"))
    refused(post(server, "m", document(FOUR)), 503, "unloaded")
    assert server.http.get("/v2/models/m/ready").status_code == 400
    done(load(server))
    assert server.http.get("/v2/models/m/ready").status_code == 200
    assert values(post(server, "m", document(FOUR))) == [2, 4, 6, 8]


def test_an_unloaded_model_is_still_in_the_catalogue_and_says_why_it_does_not_answer(server: InProcessServer) -> None:
    done(ask(server, "models/m/unload"))
    (listed,) = server.http.get("/models/m").json()
    assert (listed["state"], listed["reason"]) == ("UNLOADED", "unloaded")


def test_a_repository_that_is_gone_is_told_and_what_is_served_goes_on(server: InProcessServer, tmp_path: Path) -> None:
    assert server.http.post("/v2/models/m/infer", content=document(FOUR)).status_code == 200
    shutil.rmtree(tmp_path / "models")
    assert "m" in {entry["name"] for entry in ask(server, "index").json()}
    refused(load(server), 400, "cannot be read")
    assert server.http.post("/v2/models/m/infer", content=document(FOUR)).status_code == 200


def test_a_file_that_changed_is_loaded_once_it_has_been_read_anew(server: InProcessServer, tmp_path: Path) -> None:
    path = tmp_path / "models" / "m" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\x72\x00")
    refused(server.http.post("/v2/models/m/infer", content=document(FOUR)), 503, "changed since it was read")
    assert server.http.get("/v2/models/m/ready").status_code == 200
    done(load(server))
    assert server.http.post("/v2/models/m/infer", content=document(FOUR)).status_code == 200


def test_a_model_that_failed_to_load_is_not_ready_and_says_why(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path / "models", "m")
    (tmp_path / "allowed").write_text("0" * 64)
    with serving(models=tmp_path / "models", allow_digests=tmp_path / "allowed") as server:
        refused(server.http.post("/v2/models/m/infer", content=document(FOUR)), 503, "--allow-digests")
        told = server.http.get("/v2/models/m/ready")
        assert (told.status_code, told.json()["ready"], "digests" in told.json()["error"]) == (400, False, True)


def test_a_process_is_unloaded_and_loaded(server: InProcessServer) -> None:
    done(ask(server, "models/identity/unload", {"parameters": {"unload_dependents": False}}))
    refused(post(server, "identity", document()), 503, "unloaded")
    done(load(server, "identity"))
    assert values(post(server, "identity", document())) == [1, 2]


def test_a_configuration_is_taken(server: InProcessServer) -> None:
    done(load(server, config=json.dumps({"max_batch_size": 3})))
    assert server.http.get("/v2/models/m/config").json()["max_batch_size"] == 3
    done(load(server))
    assert server.http.get("/v2/models/m/config").json()["max_batch_size"] == 32


def test_a_model_is_sent_as_files(server: InProcessServer) -> None:
    done(load(server, "sent", **SENT))
    assert values(post(server, "sent", document(FOUR))) == [2, 4, 6, 8]
    done(ask(server, "models/sent/unload"))
    refused(post(server, "sent", document(FOUR)), 503, "unloaded")
    refused(load(server, "sent"), 400, "failed to load 'sent': the model repository has no sent/")


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"file:1/model.onnx": SENT["file:1/model.onnx"]}, "files need a config"),
        ({**SENT, "file:1/model.onnx": "not base64!"}, "'file:1/model.onnx' is not base64"),
        ({**SENT, "file:1/model.onnx": "QQ"}, "is not base64"),
        ({**SENT, "file:1/model.onnx": "ä"}, "is not base64"),
        ({**SENT, "file:../../model.onnx": ""}, "must lie inside the model's folder"),
        ({**SENT, "file:": ""}, "must lie inside the model's folder"),
        ({**SENT, "file:1/model.onnx": ""}, "failed to load 'm'"),
        ({"config": "{}", "file:model.onnx": ""}, "the files that were sent has no m/VERSION/model.onnx"),
        ({"config": {}}, "the parameter 'config' must be a text"),
        ({"config": "{"}, "the config is not JSON"),
        ({"config": '{"backend": "python"}'}, "backend must be"),
        ({"config": '{"input": [{"name": "z"}]}'}, "names the input 'z'"),
        ({"mode": "fast"}, "the parameter 'mode' is unknown"),
        ({"f" * 5000: "fast"}, "is unknown"),
    ],
)
def test_a_load_that_cannot_be_done_is_400_and_changes_nothing(
    server: InProcessServer, parameters: dict[str, Any], told: str
) -> None:
    text = refused(load(server, **parameters), 400, told)
    assert len(text) < 500
    assert values(post(server, "m", document(FOUR))) == [2, 4, 6, 8]


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"parameters": []}', b'{"parameters": "config"}'])
@pytest.mark.parametrize("verb", ["load", "unload"])
def test_another_body_is_400_and_changes_nothing(server: InProcessServer, verb: str, body: bytes) -> None:
    refused(ask(server, f"models/m/{verb}", body), 400)
    assert "m" in ready(server)


@pytest.mark.parametrize("value", [1, "true", None])
def test_unload_dependents_is_true_or_false(server: InProcessServer, value: Any) -> None:
    answer = ask(server, "models/m/unload", {"parameters": {"unload_dependents": value}})
    refused(answer, 400, "unload_dependents must be true or false")
    assert "m" in ready(server)


def test_what_is_not_there_is_400_to_load_and_404_to_unload(server: InProcessServer) -> None:
    refused(load(server, "nothing"), 400, "failed to load 'nothing'")
    refused(ask(server, "models/nothing/unload"), 404)
    refused(load(server, "a b"), 400, "cannot be called 'a b'")


def test_a_model_that_does_not_load_is_400_without_a_path_of_the_machine(
    server: InProcessServer, tmp_path: Path
) -> None:
    (tmp_path / "models" / "torn.onnx").write_bytes(b"no model")
    (tmp_path / "models" / "m.onnx").write_bytes(MODEL)
    for name in ("torn", "m"):
        assert str(tmp_path) not in refused(load(server, name), 400, f"failed to load '{name}'")
    assert values(post(server, "m", document(FOUR))) == [2, 4, 6, 8]


def test_the_files_of_a_model_that_was_sent_go_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serving() as server:
        done(load(server, "sent", **SENT))
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
