"""Word of a task's end, from a real server to a real receiver, over crashes of the one and absences of the other."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ndserve import Client
from ndserve.client import InvalidParameterError, TaskFailedError
from tests.e2e.durable import command, durable, kill
from tests.e2e.running import HANG, environment

KEY = bytes(range(100, 132))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Message(NamedTuple):
    """What a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class Receiver:
    """A web server on 127.0.0.1. It has its port from the start, and refuses connections until it listens."""

    def __init__(self) -> None:
        self.messages: queue.Queue[Message] = queue.Queue()
        self.status = 204
        self.may_answer = threading.Event()
        self.may_answer.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.messages.put(Message(self.path, headers, body))
                receiver.may_answer.wait(HANG)
                self.close_connection = True
                try:
                    self.send_response(receiver.status)
                    self.end_headers()
                except OSError:  # who asked has been killed
                    pass

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook?for=me"

    def listen(self) -> None:
        self._server.server_activate()
        self._thread.start()

    def next(self) -> Message:
        return self.messages.get(timeout=HANG)

    def close(self) -> None:
        self.may_answer.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(HANG)
        self._server.server_close()


@contextmanager
def absent() -> Iterator[Receiver]:
    """A receiver that is not there yet."""
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with absent() as made:
        made.listen()
        yield made


def options(receiver: Receiver) -> list[str]:
    return ["--webhook-secret", SECRET, "--webhook-allow", receiver.host]


def test_the_end_of_a_task_is_told_with_its_status_document(tmp_path: Path, receiver: Receiver) -> None:
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        task_id = client.submit_task("identity", np.arange(3), webhook=receiver.url)
        message = receiver.next()
        status = client.status(task_id)
    assert message.path == "/hook?for=me"
    assert message.headers["content-type"] == "application/json"
    told = message.document
    for document in (told["data"], status):  # a quick task may end before the time that its submit took is known
        del document["timings"]["store_ms"]
    assert told == {"type": "task.succeeded", "timestamp": status["ended"], "data": status}


def test_a_message_is_signed_with_the_secret(tmp_path: Path, receiver: Receiver) -> None:
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        client.submit_task("identity", np.arange(3), webhook=receiver.url)
        message = receiver.next()
    signed = f"{message.id}.{message.headers['webhook-timestamp']}.".encode() + message.body
    expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert message.headers["webhook-signature"] == f"v1,{expected}"


def test_only_the_ends_that_were_asked_for_are_told(tmp_path: Path, receiver: Receiver) -> None:
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        ids = [
            client.submit_task("positive", np.full(1, number), webhook=receiver.url, webhook_events=["failed"])
            for number in (1.0, -1.0)
        ]
        client.get_result(ids[0], wait=None)
        with pytest.raises(TaskFailedError):
            client.get_result(ids[1], wait=None)
        last = client.submit_task("identity", np.arange(3), webhook=receiver.url)
        told = {receiver.next().document["data"]["task_id"] for _ in range(2)}
    assert told == {ids[1], last}
    assert receiver.messages.empty()


def test_a_message_that_was_not_acknowledged_comes_again_after_a_crash(tmp_path: Path, receiver: Receiver) -> None:
    receiver.may_answer.clear()
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        client.submit_task("identity", np.arange(3), webhook=receiver.url)
        first = receiver.next()
        kill(server)
    receiver.may_answer.set()
    with durable(tmp_path, *options(receiver)):
        second = receiver.next()
    assert (second.id, second.body) == (first.id, first.body)


def test_a_message_to_an_absent_receiver_arrives_after_a_crash(tmp_path: Path) -> None:
    with absent() as receiver:
        with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
            task_id = client.submit_task("identity", np.arange(3), webhook=receiver.url)
            name = server.line(r"webhook (\S+) to \S+ has failed, and is tried again")[1]
            kill(server)
        receiver.listen()
        with durable(tmp_path, *options(receiver)):
            message = receiver.next()  # some 5 s later, when it is due again
        assert message.id == name
        assert message.document["data"]["task_id"] == task_id


def test_a_message_that_has_arrived_does_not_come_again(tmp_path: Path, receiver: Receiver) -> None:
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        client.submit_task("identity", np.arange(3), webhook=receiver.url)
        receiver.next()
        with closing(sqlite3.connect(tmp_path / "tasks.sqlite3")) as database:
            while database.execute("SELECT count(*) FROM outbox").fetchone() != (0,):
                pass
        kill(server)
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        last = client.submit_task("identity", np.arange(3), webhook=receiver.url)
        assert receiver.next().document["data"]["task_id"] == last


def test_a_receiver_that_wants_no_more_gets_no_more(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 410
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        client.submit_task("identity", np.arange(3), webhook=receiver.url)
        server.line("is given up: the receiver answered 410")


def test_a_redirect_is_not_followed(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 307
    with durable(tmp_path, *options(receiver)) as server, Client(server.url) as client:
        client.submit_task("identity", np.arange(3), webhook=receiver.url)
        server.line("is tried again: the receiver answered 307")


def test_a_webhook_is_refused_where_there_is_no_secret(tmp_path: Path) -> None:
    with durable(tmp_path) as server, Client(server.url) as client:
        with pytest.raises(InvalidParameterError, match="--webhook-secret") as caught:
            client.submit_task("identity", np.arange(3), webhook="https://hook.example/")
        assert caught.value.status == 422


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "https://127.0.0.1/", "https://[::ffff:127.0.0.1]/"])
def test_a_webhook_to_this_machine_is_refused_at_the_submit(tmp_path: Path, url: str) -> None:
    with durable(tmp_path, "--webhook-secret", SECRET) as server, Client(server.url) as client:
        with pytest.raises(InvalidParameterError, match="--webhook-allow") as caught:
            client.submit_task("identity", np.arange(3), webhook=url)
        assert caught.value.status == 422


def test_a_task_whose_webhook_is_refused_is_not_accepted(tmp_path: Path) -> None:
    with durable(tmp_path, "--webhook-secret", SECRET) as server, Client(server.url) as client:
        with pytest.raises(InvalidParameterError):
            client.submit_task("identity", np.arange(3), webhook="https://127.0.0.1/")
        assert list(client.tasks()) == []


def test_the_secret_is_in_no_log(tmp_path: Path, receiver: Receiver) -> None:
    with durable(tmp_path, *options(receiver), "--log-level", "debug") as server, Client(server.url) as client:
        client.submit_task("identity", np.arange(3), webhook=receiver.url)
        receiver.next()
        server.terminate()
        assert server.exit_code() == 0
    log = "".join(server.lines)
    assert SECRET.removeprefix("whsec_") not in log
    assert str(KEY) not in log


def test_the_secret_is_in_no_answer(tmp_path: Path) -> None:
    with durable(tmp_path, "--webhook-secret", SECRET) as server, Client(server.url) as client:
        with pytest.raises(InvalidParameterError) as caught:
            client.submit_task("identity", np.arange(3), webhook="https://127.0.0.1/")
        assert SECRET.removeprefix("whsec_") not in str(caught.value)


@pytest.mark.parametrize("secret", ["hunter2", "whsec_hunter2*"])
def test_a_secret_of_no_use_ends_the_start_and_is_not_shown(tmp_path: Path, secret: str) -> None:
    ended = subprocess.run(
        command(tmp_path), env=environment(NDSERVE_WEBHOOK_SECRET=secret), capture_output=True, text=True, timeout=HANG
    )
    assert ended.returncode == 2
    assert "--webhook-secret" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr
