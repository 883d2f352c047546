"""The upstream engine against a healthy server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted_server import Handler, ScriptedServer, hold
from tests.support.upstream_calls import add, new_engine, run
from tests.support.worker_process import until
from windrow.errors import ModelUnusable
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.worker.engines.base import Prepared, StepEngine
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
