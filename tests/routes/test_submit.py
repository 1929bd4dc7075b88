"""Submitting arrays: the forms of the body, the choice of the target, and what an accepted task answers."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from ndserve.testing import InProcessServer
from ndserve.types import HostArray
from tests.routes.bodies import JSON, NPY, NPZ, array_of, arrays_of, digit, floats, npy, npz, problem

SEVEN = digit(7)
FORMS = {
    "npy": (npy(SEVEN), NPY),
    "bytes of unknown type": (npy(SEVEN), "application/octet-stream"),
    "a JSON object": (json.dumps({"array": SEVEN.tolist(), "dtype": "float32"}).encode(), JSON),
    "bare JSON lists": (json.dumps(SEVEN.tolist()).encode(), JSON),
    "named JSON lists": (json.dumps({"inputs": {"image": SEVEN.tolist()}}).encode(), JSON),
    "npz": (npz(image=SEVEN), NPZ),
}


def result_of(server: InProcessServer, task_id: str) -> HostArray:
    answer = server.http.get(f"/result/{task_id}", params={"wait": 30})
    assert answer.status_code == 200, answer.text
    return array_of(answer.content)


@pytest.mark.parametrize("form", FORMS)
def test_an_array_is_read_in_every_form(server: InProcessServer, form: str) -> None:
    body, media_type = FORMS[form]
    answer = server.http.post("/process_np_array?model=digits", content=body, headers={"content-type": media_type})
    assert answer.status_code == 202, answer.text
    assert result_of(server, answer.json()["task_id"]).argmax() == 7


def test_a_file_of_an_html_form_is_read(server: InProcessServer) -> None:
    files = {"file": ("seven.npy", io.BytesIO(npy(SEVEN)), "application/octet-stream")}
    answer = server.http.post("/process_np_array?model=digits", files=files)
    assert answer.status_code == 202, answer.text
    assert result_of(server, answer.json()["task_id"]).argmax() == 7


def test_an_accepted_task_answers_its_id_its_status_and_where_its_result_will_be(server: InProcessServer) -> None:
    answer = server.http.post("/process_np_array?model=digits", content=npy(SEVEN))
    assert answer.status_code == 202
    assert answer.json().keys() == {"task_id", "status"}
    assert answer.json()["status"] == "queued"
    assert answer.headers["location"] == f"/result/{answer.json()['task_id']}"


def test_location_leads_to_the_result(server: InProcessServer) -> None:
    location = server.http.post("/tasks/digits", content=npy(SEVEN)).headers["location"]
    assert array_of(server.http.get(location, params={"wait": 30}).content).argmax() == 7


def test_a_process_is_named_in_the_query(server: InProcessServer) -> None:
    answer = server.http.post("/process_np_array?process=identity&wait=30", content=npy([1, 2]))
    assert array_of(answer.content).tolist() == [1, 2]


def test_the_default_process_runs_where_no_target_is_named(server: InProcessServer) -> None:
    answer = server.http.post("/process_np_array?wait=30", content=npy(np.array([1, 3], np.float32)))
    assert array_of(answer.content).tolist() == [-1, 1]


def test_a_version_of_a_model_can_be_named(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/digits?version=1&wait=30", content=npy(SEVEN))
    assert array_of(answer.content).argmax() == 7


def test_a_submit_that_waits_gives_the_result_and_leaves_nothing_in_the_store(server: InProcessServer) -> None:
    before = server.service.store.usage()
    answer = server.http.post("/tasks/digits?wait=30", content=npy(SEVEN))
    assert answer.status_code == 200
    assert array_of(answer.content).argmax() == 7
    assert server.service.store.usage() == before


@pytest.mark.parametrize(("posted", "given"), [((8, 8), (10,)), ((3, 8, 8), (3, 10)), ((0, 8, 8), (0, 10))])
def test_an_item_gives_one_result_and_a_batch_one_for_each(
    server: InProcessServer, posted: tuple[int, ...], given: tuple[int, ...]
) -> None:
    answer = server.http.post("/tasks/digits?wait=30", content=npy(floats(*posted)))
    assert answer.status_code == 200, answer.text
    assert array_of(answer.content).shape == given


def test_a_wrong_dtype_is_refused_with_what_is_expected_and_how_to_get_it(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/digits", content=npy(SEVEN.astype(np.uint8)))
    document = problem(answer, 422, "invalid_input")
    assert "cast=true" in document["detail"]
    assert document["expected"] == ["image: float32[?, 8, 8]"]


def test_cast_makes_a_safe_conversion(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/digits?cast=true&wait=30", content=npy(SEVEN.astype(np.uint8)))
    assert array_of(answer.content).argmax() == 7


def test_cast_refuses_a_conversion_that_changes_values(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/digits?cast=true", content=npy(np.full((8, 8), 1e300)))
    problem(answer, 422, "invalid_input")


def test_a_wrong_shape_is_refused_with_the_shape_that_came(server: InProcessServer) -> None:
    document = problem(server.http.post("/tasks/digits", content=npy(floats(7, 8))), 422, "invalid_input")
    assert "[7, 8]" in document["detail"]
    assert document["expected"] == ["image: float32[?, 8, 8]"]


def test_json_without_a_dtype_takes_the_targets(server: InProcessServer) -> None:
    whole = [[int(value) for value in row] for row in SEVEN]
    answer = server.http.post("/tasks/digits?wait=30", json=whole)
    assert array_of(answer.content).argmax() == 7


def test_missing_and_surplus_inputs_are_named(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/difference", content=npz(a=floats(3), c=floats(3)))
    document = problem(answer, 422, "invalid_input")
    assert "missing inputs: b" in document["detail"]
    assert "surplus inputs: c" in document["detail"]


def test_inputs_are_told_apart_by_their_names(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/difference?wait=30", content=npz(b=np.ones(3), a=np.full(3, 5.0)))
    assert array_of(answer.content).tolist() == [4, 4, 4]


def test_the_query_sets_the_parameters_of_a_process(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/resize?height=2&width=5&wait=30", content=npy(floats(4, 4)))
    assert array_of(answer.content).shape == (2, 5)


def test_several_outputs_come_by_their_names(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/top_k?k=2&wait=30", content=npy(np.array([1, 9, 5], np.float32)))
    assert answer.headers["content-type"] == NPZ
    outputs = arrays_of(answer.content)
    assert {name: array.tolist() for name, array in outputs.items()} == {"values": [9, 5], "indices": [1, 2]}


def test_the_servers_own_run_helper_gives_several_outputs_by_name(server: InProcessServer) -> None:
    outputs = server.run("top_k", np.array([1, 9, 5], np.float32), k=1)
    assert isinstance(outputs, dict)
    assert outputs["indices"].tolist() == [1]
