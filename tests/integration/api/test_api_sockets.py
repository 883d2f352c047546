"""The API under gunicorn over raw sockets: wrong lengths, oversized bodies, disconnects and a stop."""

import json
import signal
import socket
import threading
import time

import httpx
import pytest

from tests.support.api_server import GOOD, Connect, head, start_api
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.integration


def test_one_connection_serves_several_requests(connect: Connect) -> None:
    wire = connect()
    for _ in range(3):
        wire.send(head(b"Prefer: wait=30", b"Content-Length: %d" % len(GOOD)), GOOD)
        answer = wire.read()
        assert (answer.status, json.loads(answer.body)["status"]) == (200, "succeeded")


def test_a_chunked_body_is_read(connect: Connect) -> None:
    wire = connect()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n"
    wire.send(head(b"Transfer-Encoding: chunked"), chunks)
    assert wire.read().status == 202


def test_a_body_shorter_than_its_content_length_is_malformed(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: 500"), GOOD)
    wire.socket.shutdown(socket.SHUT_WR)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (400, "malformed_request")
    assert f"{len(GOOD)} of 500 bytes" in answer.problem["detail"]
    assert wire.is_closed()


def test_a_body_that_stops_arriving_is_malformed_after_the_timeout(connect: Connect) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: 500"), GOOD)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (400, "malformed_request")
    assert "shorter than its Content-Length" in answer.problem["detail"]
    assert answer.headers["connection"] == "close"
    assert wire.is_closed()


def test_a_body_longer_than_its_content_length_fails_and_the_rest_is_not_served(connect: Connect) -> None:
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


def test_an_ordinary_client_receives_the_413(served: int, connect: Connect) -> None:
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


def test_an_invalid_chunk_is_malformed(connect: Connect) -> None:
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
def test_every_malformed_request_is_answered_with_a_problem_and_never_html(
    connect: Connect, request_bytes: bytes, status: int, code: str
) -> None:
    wire = connect()
    wire.send(request_bytes)
    answer = wire.read()
    assert (answer.status, answer.problem["code"]) == (status, code)
    assert b"<html" not in answer.body.lower()
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("host", [b"a b", b"<script>", b"[::1", b"a:b:c", b""])
def test_an_odd_host_header_is_refused_or_harmless(connect: Connect, host: bytes) -> None:
    wire = connect()
    wire.send(head(b"Content-Length: %d" % len(GOOD)).replace(b"Host: test", b"Host: " + host), GOOD)
    answer = wire.read()
    assert answer.headers["content-type"] in ("application/json", "application/problem+json")
    assert answer.status in (202, 400)


def test_clients_that_disconnect_do_no_harm(connect: Connect) -> None:
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
        process, port = start_api(redis.url)
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


def test_a_connection_whose_request_head_stops_arriving_is_closed(connect: Connect) -> None:
    wire = connect()
    wire.send(b"POST /v1/predictions HTTP/1.1\r\nHost: test\r\nX-Half: a he")
    assert wire.is_closed()


def test_a_page_of_another_origin_gets_no_cors_headers(connect: Connect) -> None:
    wire = connect()
    for target in (b"OPTIONS /v1/predictions", b"GET /v1/models", b"GET /healthz"):
        wire.send(head(b"Origin: https://example.org", b"Access-Control-Request-Method: POST", target=target))
        answer = wire.read()
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.status == (405 if target.startswith(b"OPTIONS") else 200)
        assert answer.headers["server"] == "gunicorn"
