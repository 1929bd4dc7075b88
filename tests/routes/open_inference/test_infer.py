"""Inferences: arrays in and out in every form, ids, parameters of processes, priorities, and texts as bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from ndserve.engine.target import BatchDefaults
from ndserve.engine.targets import Targets
from ndserve.errors import MalformedBodyError, UnsupportedError
from ndserve.processes.base import builtin_processes
from ndserve.routes.open_inference.parameters import read_options
from ndserve.testing import InProcessServer
from ndserve.types import DEFAULT_OPTIONS, HostArray
from tests.routes.bodies import digit, floats
from tests.routes.open_inference.asking import LENGTH, PLAIN, X, binary, document, post, post_binary, refused, values
from tests.routes.test_hang_up import Client, run, running
from tests.unit.engine.rig import tick

IMAGE: HostArray = digit(3).astype(np.float32)[None]


def likeliest(array: HostArray) -> int:
    return int(array.argmax())


def test_values_in_the_json_go_in_and_come_out(server: InProcessServer) -> None:
    image = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": IMAGE.tolist()}
    answer = post(server, "digits", document(image))
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    assert answer.json()["model_name"] == "digits"
    assert answer.json()["model_version"] == "1"
    assert likeliest(np.array(values(answer))) == 3


def test_binary_arrays_go_in_and_come_out(server: InProcessServer) -> None:
    answer = post_binary(server, "digits", "image", IMAGE, parameters={"binary_data_output": True})
    assert likeliest(binary(answer)) == 3


def test_binary_and_json_give_the_same_numbers(server: InProcessServer) -> None:
    in_json = values(post_binary(server, "digits", "image", IMAGE))
    raw = binary(post_binary(server, "digits", "image", IMAGE, parameters={"binary_data_output": True}))
    np.testing.assert_array_equal(np.array(in_json, np.float32), raw.reshape(-1))


def test_a_body_without_json_is_an_input_and_its_outputs_are_binary(server: InProcessServer) -> None:
    answer = server.http.post("/v2/models/digits/infer", content=IMAGE.tobytes(), headers={**PLAIN, LENGTH: "0"})
    assert likeliest(binary(answer)) == 3


def test_several_rows_are_one_request(server: InProcessServer) -> None:
    rows = np.concatenate([IMAGE, digit(7).astype(np.float32)[None]])
    answer = post_binary(server, "digits", "image", rows, parameters={"binary_data_output": True})
    assert binary(answer).argmax(axis=1).tolist() == [3, 7]


def test_classes_are_given_row_by_row(server: InProcessServer) -> None:
    wanted = {"name": "probabilities", "parameters": {"classification": 2}}
    answer = post_binary(server, "digits", "image", np.concatenate([IMAGE, IMAGE]), outputs=[wanted])
    (output,) = answer.json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"][0].endswith(":3")
    assert output["data"][:2] == output["data"][2:]


def test_classes_of_no_rows_are_none(server: InProcessServer) -> None:
    wanted = {"name": "probabilities", "parameters": {"classification": 2}}
    answer = post_binary(server, "digits", "image", np.zeros((0, 8, 8), np.float32), outputs=[wanted])
    assert answer.json()["outputs"][0]["shape"] == [0, 2]


def test_the_id_comes_back(server: InProcessServer) -> None:
    assert post(server, "identity", document(id="mine")).json()["id"] == "mine"
    assert "id" not in post(server, "identity", document()).json()


@pytest.mark.parametrize("content_type", ["", "text/csv", "application/json", "image/png"])
def test_the_content_type_does_not_matter(server: InProcessServer, content_type: str) -> None:
    headers = {"content_type": content_type} if content_type else {}
    assert values(post(server, "identity", document(), **headers)) == [1, 2]


def test_a_process_with_several_inputs_takes_them_by_name(server: InProcessServer) -> None:
    a, b = (
        {"name": name, "datatype": "FP32", "shape": [1, 3], "data": data}
        for name, data in (("a", [5, 5, 5]), ("b", [1, 2, 3]))
    )
    assert values(post(server, "difference", document(b, a))) == [4, 3, 2]


def test_the_parameters_of_a_process_are_the_requests(server: InProcessServer) -> None:
    image = {"name": "x", "datatype": "FP32", "shape": [4, 4], "data": [1] * 16}
    answer = post(
        server, "resize", document(image, parameters={"height": 2, "width": "3", "binary_data_output": False})
    )
    assert answer.json()["outputs"][0]["shape"] == [2, 3]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [({"depth": 2}, "no parameter 'depth'"), ({"height": "tall"}, "takes a int"), ({"height": 1.5}, "takes a int")],
)
def test_a_parameter_that_a_process_does_not_take_is_400(
    server: InProcessServer, parameters: dict[str, Any], told: str
) -> None:
    refused(post(server, "resize", document(parameters=parameters)), 400, told)


def test_a_model_passes_over_parameters_that_are_nobodys(server: InProcessServer) -> None:
    answer = post_binary(server, "digits", "image", IMAGE, parameters={"mode": "fast", "triton_x": 1, "headers": "h"})
    assert likeliest(np.array(values(answer))) == 3


def test_what_is_reserved_is_no_parameter_of_a_process(server: InProcessServer) -> None:
    reserved = {"triton_x": 1, "headers": "h", "priority": 1, "timeout": 10_000_000, "sequence_id": 0}
    assert values(post(server, "identity", document(parameters=reserved))) == [1, 2]


@pytest.mark.parametrize(("given", "level"), [(0, 5), (1, 9), (5, 5), (9, 1), (10, 0), (1000, 0)])
def test_of_priority_1_goes_first_and_0_is_the_default(given: int, level: int) -> None:
    (target,) = Targets([], [p for p in builtin_processes() if p.name == "identity"], BatchDefaults())
    assert read_options({"priority": given}, target)[0].priority == level


def test_a_timeout_is_in_microseconds() -> None:
    (target,) = Targets([], [p for p in builtin_processes() if p.name == "identity"], BatchDefaults())
    assert read_options({"timeout": 2_500_000}, target)[0].start_within == 2.5
    assert read_options({"timeout": 0}, target)[0] is DEFAULT_OPTIONS


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", True, 2**63])
def test_a_priority_or_timeout_that_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    (target,) = Targets([], [p for p in builtin_processes() if p.name == "identity"], BatchDefaults())
    with pytest.raises(MalformedBodyError, match=f"{name} must be a whole number from 0 up"):
        read_options({name: value}, target)


@pytest.mark.parametrize(("name", "value"), [("sequence_id", 1), ("sequence_id", "a"), ("sequence_start", True)])
def test_a_sequence_is_refused_and_its_defaults_are_not(name: str, value: Any) -> None:
    (target,) = Targets([], [p for p in builtin_processes() if p.name == "identity"], BatchDefaults())
    with pytest.raises(UnsupportedError):
        read_options({name: value}, target)
    assert read_options({"sequence_id": 0, "sequence_start": False, "sequence_end": False}, target) == (
        DEFAULT_OPTIONS,
        {},
    )


def asking(number: float, **parameters: Any) -> bytes:
    return document({**X, "shape": [1], "data": [number]}, parameters=parameters)


def test_who_has_the_better_priority_runs_first() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            requests = []
            for number, priority in ((0, 0), (1, 0), (2, 9), (3, 3), (4, 1)):
                client = Client(app, "POST", "/v2/models/held/infer")
                client.push(asking(number, priority=priority))
                requests.append(client.start())
                await tick()
                if not number:
                    await asyncio.to_thread(gate.reached)
            tasks = list(service.ledger.live.values())
            gate.open()
            await asyncio.gather(*requests)
            ran = sorted(tasks, key=lambda task: task.started or 0.0)
            assert [tasks.index(task) for task in ran] == [0, 4, 3, 1, 2]

    run(test())


def test_a_client_that_hangs_up_while_it_waits_takes_its_task_along() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            client = Client(app, "POST", "/v2/models/held/infer")
            client.push(asking(1))
            request = client.start()
            await asyncio.to_thread(gate.reached)
            await client.asked.wait()
            client.hang_up()
            await request
            assert service.stats()["ended"]["cancelled"] == 1
            assert service.stats()["queue"]["live"] == 0
            assert (len(service.waiters), client.sent) == (0, [])

    run(test())


def test_a_client_that_hangs_up_in_the_middle_of_its_body_queues_nothing() -> None:
    async def test() -> None:
        async with running() as (app, service, _):
            client = Client(app, "POST", "/v2/models/identity/infer")
            client.push(asking(1)[:10], more=True)
            request = client.start()
            await client.asked.wait()
            client.hang_up()
            await request
            assert service.stats()["queue"]["live"] == 0
            assert client.sent == []

    run(test())


def test_a_request_that_is_not_answered_within_its_timeout_is_503_and_its_task_ends() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            client = Client(app, "POST", "/v2/models/held/infer")
            client.push(asking(1, timeout=20_000))
            await client.start()
            assert client.status == 503
            assert json.loads(client.body) == {
                "error": "the request had not ended within its timeout of 20000 microseconds"
            }
            assert service.stats()["queue"]["live"] == 0
            assert service.target("held").statistics.fail.count == 1
            gate.open()

    run(test())


def test_a_request_whose_timeout_runs_out_in_the_queue_is_503_and_never_runs() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            first = Client(app, "POST", "/v2/models/held/infer")
            first.push(asking(1))
            running_request = first.start()
            await asyncio.to_thread(gate.reached)
            second = Client(app, "POST", "/v2/models/identity/infer")
            second.push(asking(2, timeout=1000))
            await second.start()
            assert second.status == 503
            gate.open()
            await running_request
            assert first.status == 200
            assert service.target("identity").statistics.executions == 0

    run(test())


def test_a_timeout_that_is_kept_changes_nothing(server: InProcessServer) -> None:
    assert values(post(server, "identity", asking(5, timeout=20_000_000))) == [5]


def test_a_server_that_ends_answers_who_still_waits() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            client = Client(app, "POST", "/v2/models/held/infer")
            client.push(asking(1))
            request = client.start()
            await asyncio.to_thread(gate.reached)
            await service.drain(0)
            await request
            assert client.status == 503
            assert "shut down" in json.loads(client.body)["error"]

    run(test())


def test_large_values_in_the_json_are_read_and_written_beside_the_loop(server: InProcessServer) -> None:
    array = floats(100_000)
    large = {"name": "x", "datatype": "FP32", "shape": [100_000], "data": array.tolist()}
    assert values(post(server, "identity", document(large))) == array.tolist()


def test_a_wrong_datatype_is_refused_without_a_word_of_what_this_protocol_has_not(server: InProcessServer) -> None:
    entry = {"name": "image", "datatype": "INT32", "shape": [1, 8, 8], "data": list(range(64))}
    text = refused(post(server, "digits", document(entry)), 400, "int32, not float32")
    assert "cast" not in text
