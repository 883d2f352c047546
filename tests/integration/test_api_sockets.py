"""The API as gunicorn serves it, talked to over a socket: lies about lengths, floods, hang-ups, a stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer, free_port

pytestmark = pytest.mark.integration

GOOD = json.dumps({"model": "minilm", "input": "a text"}).encode()
MAX_BODY_BYTES = 50_000


def start(redis_url: str) -> tuple[subprocess.Popen[bytes], int]:
    """gunicorn as the Procfile starts it; returns once it answers."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDROW_")} | {
        "CELERY_BROKER_URL": redis_url,
        "PORT": str(port),
        "WINDROW_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api:create_app()"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    end_s = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
            return process, port
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > end_s:
                process.kill()
                raise RuntimeError(process.communicate()[1].decode()) from None
            time.sleep(0.05)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json", self.body
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert set(problem) == {"type", "title", "status", "detail", "code"}
        return problem


class Wire:
    """One connection, on which any bytes can be sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def read(self) -> Answer:
        """The next answer."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Answer(status, headers, self._file.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def head(*more: bytes, target: bytes = b"POST /v1/predictions") -> bytes:
    lines = [target + b" HTTP/1.1", b"Host: test", b"Content-Type: application/json", *more]
    return b"\r\n".join([*lines, b"", b""])


@pytest.fixture(scope="module")
def served() -> Iterator[int]:
    """The port of a running API with a worker, on a Redis of its own."""
    with RedisServer() as redis, FakeWorker(redis.url, "minilm"):
        process, port = start(redis.url)
        try:
            yield port
        finally:
            process.terminate()
            log = process.communicate()[1].decode()
    assert process.returncode == 0
    assert "Traceback" not in log, log


@pytest.fixture
def connect(served: int) -> Iterator[Callable[[], Wire]]:
    """Opens connections, and afterwards checks that a good request is served."""
    opened: list[Wire] = []

    def open_one() -> Wire:
        opened.append(Wire(served))
        return opened[-1]

    yield open_one
    for wire in opened:
        wire.close()
    response = httpx.post(
        f"http://127.0.0.1:{served}/v1/predictions", content=GOOD,
        headers={"Content-Type": "application/json", "Prefer": "wait=30"}, timeout=60,
    )  # fmt: skip
    assert (response.status_code, response.json()["status"]) == (200, "succeeded"), response.text


Connect = Callable[[], Wire]


def test_one_connection_serves_one_request_after_the_other(connect: Connect) -> None:
    wire = connect()
    for _ in range(3):
        wire.send(head(b"Prefer: wait=30", b"Content-Length: %d" % len(GOOD)), GOOD)
        answer = wire.read()
        assert (answer.status, json.loads(answer.body)["status"]) == (200, "succeeded")


def test_a_body_in_chunks_is_read(connect: Connect) -> None:
    wire = connect()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n"
    wire.send(head(b"Transfer-Encoding: chunked"), chunks)
    assert wire.read().status == 202


def test_a_body_that_ends_before_its_announced_length_is_malformed(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: 500"), GOOD)
    wire.socket.shutdown(socket.SHUT_WR)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (400, "malformed_request")
    assert f"{len(GOOD)} of 500 bytes" in answer.problem["detail"]
    assert wire.is_closed()


def test_a_body_that_stops_coming_is_malformed_after_the_timeout(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: 500"), GOOD)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (400, "malformed_request")
    assert "shorter than announced" in answer.problem["detail"]
    assert answer.headers["connection"] == "close"
    assert wire.is_closed()


def test_a_body_longer_than_announced_fails_and_what_follows_it_is_no_request(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: 10"), GOOD, b"\r\n\r\n")
    first = wire.read()
    assert (first.status, first.problem["code"]) == (400, "malformed_request")
    second = wire.read()
    assert (second.status, second.problem["code"]) == (400, "malformed_request")
    assert wire.is_closed()


def test_a_body_over_the_limit_is_413_while_it_is_still_being_sent(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: 8000000"), b"x" * 4_000_000)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (413, "payload_too_large")
    assert answer.headers["connection"] == "close"
    assert wire.is_closed()


def test_an_ordinary_client_reads_the_413(served: int, connect: Connect) -> None:
    url = f"http://127.0.0.1:{served}/v1/predictions"
    headers = {"Content-Type": "application/json"}
    assert httpx.post(url, content=b"x" * 2_000_000, headers=headers).status_code == 413
    assert httpx.post(url, content=(b"x" * 1000 for _ in range(2000)), headers=headers).status_code == 413


def test_chunks_over_the_limit_are_413(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Transfer-Encoding: chunked"), b"1000\r\n%s\r\n" % (b"x" * 0x1000) * 20)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (413, "payload_too_large")
    assert wire.is_closed()


def test_a_broken_chunk_is_malformed(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Transfer-Encoding: chunked"), b"zz\r\nhello\r\n")
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (400, "malformed_request")
    assert wire.is_closed()


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed_request"),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400, "malformed_request"),
        (b"GET /healthz HTTP/1.1\r\nbroken header\r\n\r\n", 400, "malformed_request"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "malformed_request"),
        (head(b"Content-Length: 1", b"Content-Length: 2") + b"xx", 400, "malformed_request"),
        (head(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, "malformed_request"),
        (head(b"Content-Length: -1"), 400, "malformed_request"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (head(b"Transfer-Encoding: br"), 501, "unsupported_transfer_coding"),
        (head(b"Expect: a miracle"), 417, "expectation_failed"),
        (b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404, "unknown_route"),
        (b"DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
        (b"GET /v1/predictions/%ff%00 HTTP/1.1\r\nHost: a\r\n\r\n", 404, "unknown_prediction"),
        (b"GET /v1/predictions/x HTTP/1.1\r\nHost: <script>\r\n\r\n", 404, "unknown_prediction"),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_whatever_is_sent_the_answer_is_a_problem_and_never_html(
    connect: Connect, request_bytes: bytes, status: int, code: str
) -> None:
    wire = connect()
    wire.send(request_bytes)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (status, code)
    assert b"<html" not in answer.body.lower()
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("host", [b"a b", b"<script>", b"[::1", b"a:b:c", b""])
def test_a_strange_host_is_refused_or_only_ever_a_string(connect: Connect, host: bytes) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: %d" % len(GOOD)).replace(b"Host: test", b"Host: " + host), GOOD)
    answer = wire.read()
    assert answer.headers["content-type"] in ("application/json", "application/problem+json")
    assert answer.status in (202, 400)


def test_clients_that_hang_up_do_no_harm(connect: Connect) -> None:
    for _ in range(20):
        wire = connect()
        wire.send(head(b"Prefer: wait=1", b"Content-Length: %d" % len(GOOD)), GOOD)
        wire.close()
    for _ in range(20):
        wire = connect()
        wire.send(head(b"Content-Length: 500"), GOOD)
        wire.close()


def test_waiting_clients_are_answered_when_the_server_stops() -> None:
    with RedisServer() as redis:
        worker = FakeWorker(redis.url, "minilm")
        worker.beat()
        process, port = start(redis.url)
        answers: list[httpx.Response] = []

        def ask() -> None:
            headers = {"Content-Type": "application/json", "Prefer": "wait=60"}
            url = f"http://127.0.0.1:{port}/v1/predictions"
            answers.append(httpx.post(url, content=GOOD, headers=headers, timeout=90))

        clients = [threading.Thread(target=ask) for _ in range(10)]
        for client in clients:
            client.start()
        while worker.queue.depth().waiting < len(clients):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        log = process.communicate(timeout=30)[1].decode()
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(202, "queued")] * 10
    assert process.returncode == 0
    assert "Traceback" not in log, log
