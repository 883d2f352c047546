"""The upstream engine against a server that is busy, unreachable, broken, slow or healthy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted_server import Handler, ScriptedServer, hold
from tests.support.worker_process import until
from windrow.errors import InputTooLong, InvalidInput, ModelUnusable, UpstreamFailed, WindrowError
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.worker.engines.base import Delta, Prepared, StepEngine
from windrow.worker.engines.upstream import engine as upstream
from windrow.worker.engines.upstream import sending
from windrow.worker.engines.upstream.engine import UpstreamEngine

pytestmark = pytest.mark.integration

CHAT = {"messages": [{"role": "user", "content": "dry hay"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def new_engine(server: ScriptedServer, **more: Any) -> UpstreamEngine:
    table = {"task": "upstream", "url": f"http://127.0.0.1:{server.port}/v1", "upstream_model": "theirs"}
    return UpstreamEngine("ours", ModelSettings.model_validate(table | more))


@pytest.fixture
def engine(server: ScriptedServer) -> UpstreamEngine:
    server.calls.clear()
    return new_engine(server)


def add(engine: UpstreamEngine, id: str, value: object = CHAT, **parameters: Any) -> None:
    (prepared,) = engine.prepare([value], [parameters])
    assert isinstance(prepared, Prepared), prepared
    engine.add(id, prepared)


def run(engine: UpstreamEngine, *ids: str) -> dict[str, list[Delta]]:
    """Step until all of them have ended."""
    told: dict[str, list[Delta]] = {id: [] for id in ids}
    end_s = time.monotonic() + 30
    while not all(deltas and deltas[-1].outcome for deltas in told.values()):
        assert time.monotonic() < end_s, told
        handle = engine.step()
        if handle is None:
            engine.wait(0.5)
        else:
            for delta in engine.collect(handle):
                told[delta.id].append(delta)
    return told


def failure(engine: UpstreamEngine) -> WindrowError:
    add(engine, "a")
    outcome = run(engine, "a")["a"][-1].outcome
    assert isinstance(outcome, Failed)
    return outcome.error


def test_it_is_a_step_engine(engine: UpstreamEngine) -> None:
    assert isinstance(engine, StepEngine)
    assert (engine.info.task, engine.info.max_sequences) == ("upstream", 256)


def test_text_is_reported_as_it_arrives_and_the_output_at_the_end(
    engine: UpstreamEngine, server: ScriptedServer
) -> None:
    add(engine, "a", temperature=0.5, seed=3)
    *words, last = run(engine, "a")["a"]
    assert [(delta.text, delta.tokens, delta.first) for delta in words] == [("dry", 1, True), (" hay", 0, False)]
    assert (last.tokens, last.first) == (1, False)
    assert isinstance(last.outcome, Done)
    assert last.outcome.output == {
        "text": "dry hay",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4, "cached_tokens": 0},
    }
    ((path, body, _),) = server.calls
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["seed"]) == ("theirs", 0.5, 3)


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb\x0cc\x1cd", "hay ☀"])
def test_other_unicode_line_separators_do_not_end_a_line_of_an_event_stream(engine: UpstreamEngine, text: str) -> None:
    add(engine, "a", text)
    (outcome,) = [delta.outcome for delta in run(engine, "a")["a"] if delta.outcome is not None]
    assert isinstance(outcome, Done), outcome
    assert outcome.output["text"] == text


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_line_end_of_the_standard_is_recognized_in_any_split_of_the_bytes(
    engine: UpstreamEngine, server: ScriptedServer, end: str
) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        lines = [": hay", "", "event: x", 'data:{"choices":[{"delta":{"content":"dry ☀"}}]}', ""]
        lines += ['data: {"choices":[{"delta":{},"finish_reason":"stop"}]}', "", "data: [DONE]"]
        for byte in end.join(lines).encode():
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()

    server.next = [answer]
    add(engine, "a")
    outcome = run(engine, "a")["a"][-1].outcome
    assert isinstance(outcome, Done), outcome
    assert outcome.output["text"] == "dry ☀"


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


def test_concurrent_requests_get_their_own_answers(engine: UpstreamEngine) -> None:
    ids = [f"id{number}" for number in range(40)]
    for id in ids:
        add(engine, id, f"say {id}")
    for id, deltas in run(engine, *ids).items():
        assert "".join(delta.text for delta in deltas) == f"say {id}"
    assert engine.busy_s > 0


def test_the_api_key_of_the_environment_is_sent(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-secret")
    engine = new_engine(server, api_key_env="THEIR_KEY")
    server.calls.clear()
    add(engine, "a")
    run(engine, "a")
    assert server.calls[0][2]["Authorization"] == "Bearer sk-secret"


def test_a_missing_api_key_is_named(server: ScriptedServer) -> None:
    with pytest.raises(ModelUnusable, match="the variable NOBODY_SET_THIS is not set"):
        new_engine(server, api_key_env="NOBODY_SET_THIS")


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


def test_an_answer_without_text_counts_its_tokens(engine: UpstreamEngine, server: ScriptedServer) -> None:
    def silent(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.chunk(None, "stop", usage={"prompt_tokens": 1, "completion_tokens": 1})

    server.next = [silent]
    add(engine, "a")
    (end,) = run(engine, "a")["a"]
    assert (end.text, end.tokens, end.first) == ("", 1, True)
    assert isinstance(end.outcome, Done)


def test_usage_with_every_chunk_is_requested_from_servers_that_support_it() -> None:
    with ScriptedServer() as server:
        server.models = [{"id": "theirs", "owned_by": "vllm"}]
        engine = new_engine(server)
        until("its models were listed", lambda: engine._reports_usage)
        add(engine, "a")
        assert isinstance(run(engine, "a")["a"][-1].outcome, Done)
        assert server.calls[0][1]["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_a_cancel_closes_the_connection_and_drops_further_output(
    engine: UpstreamEngine, server: ScriptedServer
) -> None:
    left: list[Exception] = []

    def held(handler: Handler, body: dict[str, Any]) -> None:
        try:
            hold(handler, body)
        except OSError as error:
            left.append(error)

    server.next = [held]
    add(engine, "a")
    until("it has begun", lambda: engine.step())
    engine.cancel("a")
    assert engine.step() is None
    until("the server notices", lambda: left)
    assert engine.step() is None
    engine.cancel("a")  # once more does nothing
    add(engine, "b")
    assert isinstance(run(engine, "b")["b"][-1].outcome, Done)


def test_a_bad_input_is_refused_before_it_is_sent(engine: UpstreamEngine, server: ScriptedServer) -> None:
    bad, good, cut = engine.prepare([5, "hay", "hay"], [{}, {}, {"truncate": True}])
    assert isinstance(bad, Failed)
    assert isinstance(cut, Failed)
    assert isinstance(good, Prepared)
    assert server.calls == []


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
