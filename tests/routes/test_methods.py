"""Which methods the paths of tasks answer; every other one is refused with those that there are."""

from __future__ import annotations

import pytest

from ndserve.testing import InProcessServer
from tests.routes.bodies import floats, npy, problem

ANSWERED = {
    "/tasks": {"GET"},
    "/tasks/some-id": {"GET", "POST", "DELETE"},
    "/tasks/some-id/result": {"GET", "PUT"},
    "/tasks/some-id/events": {"GET", "PUT"},
    "/tasks/some-id/retry": {"POST", "PUT"},
    "/result/some-id": {"GET"},
    "/process_np_array": {"POST"},
}
METHODS = ("HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE")
REFUSED = [(method, path) for path, answered in ANSWERED.items() for method in METHODS if method not in answered]


@pytest.mark.parametrize(("method", "path"), REFUSED)
def test_a_method_that_a_path_of_tasks_does_not_answer_is_refused(
    server: InProcessServer, method: str, path: str
) -> None:
    answer = server.http.request(method, path)
    assert answer.status_code == 405
    # The second segment of a PUT is an id of the client's own, and these paths are not told as such.
    assert set(answer.headers["allow"].split(", ")) == ANSWERED[path] - {"PUT"}
    if method != "HEAD":
        problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("name", ["result", "events", "retry"])
def test_a_put_takes_the_names_of_the_other_paths_for_ids(server: InProcessServer, name: str) -> None:
    answer = server.http.put(f"/tasks/identity/{name}", content=npy(floats(2)))
    assert answer.headers["location"] == f"/result/{name}"
    assert server.http.get(f"/result/{name}?wait=20").status_code == 200


@pytest.mark.parametrize("path", ["/tasks//mine", "/tasks/identity/mine/too"])
def test_a_put_names_a_target_and_an_id(server: InProcessServer, path: str) -> None:
    assert server.http.put(path, content=npy(floats(2))).status_code in (404, 422)


def test_an_id_is_put_and_its_task_is_found_under_tasks(server: InProcessServer) -> None:
    server.http.put("/tasks/identity/put-here?wait=20", content=npy(floats(2)))
    assert server.http.get("/tasks/put-here").json()["status"] == "succeeded"
