"""The upstream engine against a server that is busy, unreachable or broken, or that refuses requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted_server import Handler, ScriptedServer
from tests.support.upstream_calls import add, failure, new_engine, run
from tests.support.worker_process import until
from windrow.errors import InputTooLong, InvalidInput, ModelUnusable, UpstreamFailed, WindrowError
from windrow.scheduler.core.outcomes import Done
from windrow.worker.engines.upstream import engine as upstream
from windrow.worker.engines.upstream import sending
from windrow.worker.engines.upstream.engine import UpstreamEngine

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def engine(server: ScriptedServer) -> UpstreamEngine:
    server.calls.clear()
    return new_engine(server)


def test_a_line_that_never_ends_is_cut_off(
    engine: UpstreamEngine, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_LINE_BYTES", 1 << 20)

    def endless(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        while True:
            handler.wfile.write(b"x" * 65_536)

    server.next = [endless]
    error = failure(engine)
    assert isinstance(error, UpstreamFailed)
    assert "a line of more than 1048576 bytes" in error.detail


def test_an_answer_that_cannot_be_decompressed_is_an_upstream_failure(
    engine: UpstreamEngine, server: ScriptedServer
) -> None:
    def packed(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin(Content_Encoding="gzip")
        handler.chunk("begun", "stop")

    server.next = [packed]
    error = failure(engine)
    assert isinstance(error, UpstreamFailed)
    assert "sent data that cannot be decoded" in error.detail


def test_a_request_refused_as_busy_is_retried_and_the_limit_decreases(
    engine: UpstreamEngine, server: ScriptedServer
) -> None:
    for _ in range(20):
        add(engine, "warm")
        run(engine, "warm")
    server.calls.clear()

    def busy(handler: Handler, body: dict[str, Any]) -> None:
        handler.say(429, {"error": {"message": "busy"}}, Retry_After="0.1")

    before = engine.room()
    server.next = [busy, busy]
    add(engine, "a")
    assert isinstance(run(engine, "a")["a"][-1].outcome, Done)
    assert len(server.calls) == 3
    assert engine.room() <= before


@pytest.mark.parametrize(
    ("status", "said", "kind", "words"),
    [
        (
            400,
            {"error": {"message": "top_k is unknown"}},
            InvalidInput,
            "refused the request with status 400: top_k is unknown",
        ),
        (418, "", InvalidInput, "refused the request with status 418: no reason given"),
        (400, {"error": "This model's maximum context length is 10"}, InputTooLong, "maximum context length is 10"),
        (400, {"error": {"message": "no room", "code": "context_length_exceeded"}}, InputTooLong, "400: no room"),
        (400, {"error": {"message": "no room", "type": "exceed_context_size_error"}}, InputTooLong, "400: no room"),
        (413, {"code": "context_length_exceeded", "error": "no room"}, InputTooLong, "413: no room"),
        (400, {"error": {"message": "no", "code": ["context_length_exceeded"]}}, InvalidInput, "400: no"),
        (401, {"detail": "no such key"}, ModelUnusable, "status 401: no such key"),
        (404, {"error": {"message": "no such model"}}, ModelUnusable, "status 404: no such model"),
        (405, {"detail": "Method Not Allowed"}, ModelUnusable, "status 405: Method Not Allowed"),
        (204, {}, UpstreamFailed, "failed with status 204"),
        (304, {}, UpstreamFailed, "failed with status 304"),
        (500, {}, UpstreamFailed, "failed with status 500"),
        (500, {"error": "a cache for the context length 9 has no memory"}, UpstreamFailed, "failed with status 500"),
    ],
)
def test_a_request_that_the_server_refuses_fails_with_the_servers_message(
    engine: UpstreamEngine,
    server: ScriptedServer,
    status: int,
    said: dict[str, Any] | str,
    kind: type[WindrowError],
    words: str,
) -> None:
    server.next = [lambda handler, body: handler.say(status, said)]
    error = failure(engine)
    assert type(error) is kind
    assert words in error.detail
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("to", "told"),
    [
        (
            "https://user:secret@elsewhere.example:444/v1/chat?key=secret",
            "redirects to https://elsewhere.example:444 (",
        ),
        ("/login", "redirects to http://127.0.0.1:"),
    ],
)
def test_a_redirect_is_an_upstream_failure_and_not_invalid_input(
    engine: UpstreamEngine, server: ScriptedServer, to: str, told: str
) -> None:
    server.next = [lambda handler, body: handler.say(302, {}, Location=to)]
    error = failure(engine)
    assert isinstance(error, UpstreamFailed)
    assert told in error.detail
    assert "(status 302); set the model's url to that server" in error.detail
    assert "secret" not in error.detail


def test_a_stream_can_report_that_the_prompt_is_too_long(engine: UpstreamEngine, server: ScriptedServer) -> None:
    def refuse(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.data({"error": {"message": "no room", "code": "context_length_exceeded"}})

    server.next = [refuse]
    error = failure(engine)
    assert isinstance(error, InputTooLong)
    assert "no room" in error.detail


def break_off(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.chunk("begun")


def no_json(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.data("{")


def no_chunk(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.data({"choices": [{"index": 7}]})


def failed_midway(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.chunk("begun")
    handler.data({"error": {"message": "out of cache"}})


def parts(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.data({"choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": "begun"}]}}]})


def half_a_token(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.chunk("begun", "stop", usage={"prompt_tokens": 1, "completion_tokens": 1.5})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (parts, "delta.content takes a string"),
        (half_a_token, "completion_tokens takes a whole number"),
        (break_off, "broke off"),
        (no_json, "invalid JSON"),
        (no_chunk, "an invalid chunk"),
        (failed_midway, "out of cache"),
    ],
)
def test_an_invalid_answer_fails_its_request_only(
    engine: UpstreamEngine, server: ScriptedServer, answer: Any, words: str
) -> None:
    server.next = [answer]
    error = failure(engine)
    assert isinstance(error, UpstreamFailed)
    assert words in error.detail
    add(engine, "b")
    assert isinstance(run(engine, "b")["b"][-1].outcome, Done)


def test_an_unreachable_server_gets_no_requests_until_it_is_reachable_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "UNREACHABLE_CHECK_S", 0.05)
    monkeypatch.setattr(upstream, "HEALTHY_CHECK_S", 0.05)
    with ScriptedServer() as server:
        engine = new_engine(server)
        until("the server is reachable", lambda: engine.room() > 0)
        server.stop()
        until("the server is unreachable", lambda: engine.room() == 0)
        assert str(engine.info.strategy_note).startswith("the upstream server is unreachable: ")
        add(engine, "a")  # it was claimed a moment before
        server.start()
        assert isinstance(run(engine, "a")["a"][-1].outcome, Done)
        until("the server is reachable again", lambda: engine.room() > 0)
        assert engine.info.strategy_note is None
        server.health = 503
        until("it is loading", lambda: engine.room() == 0)


def test_requests_fail_if_the_server_stays_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "GIVE_UP_S", 0.5)
    with ScriptedServer() as server:
        engine = new_engine(server)
    error = failure(engine)
    assert isinstance(error, UpstreamFailed)
    assert error.retryable
    assert "did not accept the request in" in error.detail
