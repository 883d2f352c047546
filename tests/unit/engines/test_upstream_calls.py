"""Calls of an OpenAI-compatible server, and the output that its chunks give."""

from typing import Any

import pytest

from windrow.scheduler.tasks.generate import read_call
from windrow.worker.engines.upstream.calls import UpstreamAnswer, body_of, can_report_usage, path_of

CHAT = {"messages": [{"role": "user", "content": "hay?"}]}


def body(value: object, **parameters: Any) -> dict[str, Any]:
    return body_of(read_call(value, parameters), "m")


def test_a_chat_and_a_prompt_go_to_their_routes() -> None:
    assert path_of(read_call(CHAT, {})) == "/chat/completions"
    assert path_of(read_call("hay", {})) == "/completions"
    assert body(CHAT)["messages"] == CHAT["messages"]
    assert body("hay")["prompt"] == "hay"
    assert body({"prompt_ids": [1, 2]})["prompt"] == [1, 2]


def test_every_call_is_a_stream_with_usage_and_greedy_by_default() -> None:
    assert body("hay") == {
        "model": "m", "prompt": "hay", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.0,
        "max_tokens": 256,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("models", "can"),
    [
        ({"data": [{"id": "m", "owned_by": "vllm"}]}, True),
        ({"data": [{"id": "a"}, {"id": "m", "owned_by": "sglang"}]}, True),
        ({"data": [{"id": "m", "owned_by": "openai"}]}, False),
        ({"data": [5, {"owned_by": ["vllm"]}]}, False),
        ({"data": 5}, False),
        ("<html>", False),
        (None, False),
    ],
)
def test_a_server_that_reports_usage_is_known_by_its_list_of_models(models: object, can: bool) -> None:
    assert can_report_usage(models) is can


def test_a_server_that_can_report_usage_is_asked_to_for_one_choice() -> None:
    asked = body_of(read_call("hay", {}), "m", reports_usage=True)
    assert asked["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    asked = body_of(read_call("hay", {"n": 2}), "m", reports_usage=True)
    assert asked["stream_options"] == {"include_usage": True}


def test_only_the_sampling_parameters_of_the_request_are_sent() -> None:
    asked = {"max_tokens": 5, "temperature": 0.5, "seed": 0, "n": 2, "stop": ["x"], "top_k": 3, "ignore_eos": True}
    sent = body("hay", **asked)
    assert {name: sent[name] for name in asked} == asked
    assert "min_tokens" not in sent


def test_log_probabilities_are_requested_in_the_format_of_each_route() -> None:
    assert body("hay", logprobs=2)["logprobs"] == 2
    chat = body(CHAT, logprobs=2)
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 2)


def test_a_schema_becomes_a_response_format() -> None:
    sent = body(CHAT, schema={"type": "object"})["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]) == ("json_schema", {"type": "object"})


def chunk(text: str | None = None, finish_reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish_reason} | more]}


def usage(**said: Any) -> dict[str, Any]:
    return {"choices": [], "usage": said}


def test_chunks_of_a_chat_become_an_output() -> None:
    answer = UpstreamAnswer(read_call(CHAT, {}))
    pieces = [
        piece for one in (chunk(""), chunk("dry"), chunk(" hay"), chunk(None, "stop")) for piece in answer.take(one)
    ]
    assert [piece.text for piece in pieces] == ["dry", " hay"]
    told = usage(prompt_tokens=7, completion_tokens=2, prompt_tokens_details={"cached_tokens": 4})
    assert answer.take(told) == []
    assert answer.is_whole
    assert answer.output() == {
        "text": "dry hay",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "cached_tokens": 4},
    }


def test_choices_are_kept_apart_and_the_first_is_the_output() -> None:
    answer = UpstreamAnswer(read_call("hay", {"n": 2}))
    for index, text, reason in ((1, "b", "eos_token"), (0, "a", "length")):
        answer.take({"choices": [{"index": index, "text": text, "finish_reason": None}]})
        assert not answer.is_whole
        answer.take({"choices": [{"index": index, "text": "", "finish_reason": reason}]})
    output = answer.output()
    assert [(one["text"], one["finish_reason"]) for one in output["choices"]] == [("a", "length"), ("b", "stop")]
    assert (output["text"], output["finish_reason"]) == ("a", "length")
    assert output["usage"]["completion_tokens"] == 2  # counted in chunks, since the server did not say


def test_log_probabilities_in_columns_become_entries() -> None:
    answer = UpstreamAnswer(read_call("hay", {"logprobs": 1}))
    columns = {"tokens": ["a", "b"], "token_logprobs": [-1.0, None], "top_logprobs": [{"c": -2.0}, None]}
    answer.take({"choices": [{"index": 0, "text": "ab", "logprobs": columns, "finish_reason": "stop"}]})
    first, second = answer.output()["logprobs"]
    assert (first["token"], first["logprob"], first["top_logprobs"][0]["token"]) == ("a", -1.0, "c")
    assert (second["logprob"], second["top_logprobs"]) == (-9999.0, [])


def test_missing_usage_is_estimated() -> None:
    answer = UpstreamAnswer(read_call("hay", {}))
    answer.take(chunk("dry") | {"usage": None})
    answer.take(chunk(None, "stop") | {"usage": {"prompt_tokens": 5, "completion_tokens": None}})
    answer.take(usage(prompt_tokens=None, completion_tokens=None, prompt_tokens_details=None))
    counted = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6, "cached_tokens": 0}
    assert answer.output()["usage"] == counted


def tokens(answer: UpstreamAnswer, *chunks: dict[str, Any]) -> list[int]:
    return [piece.tokens for one in chunks for piece in answer.take(one)]


def test_tokens_that_were_not_reported_are_known_at_the_end() -> None:
    answer = UpstreamAnswer(read_call("hay", {}))
    assert tokens(answer, chunk("dry"), chunk(" hay"), chunk(".", "stop")) == [1, 0, 0]
    assert answer.unreported_tokens() == [2]  # one a chunk
    answer.take(usage(completion_tokens=30))
    assert answer.unreported_tokens() == [29]


def test_usage_with_every_chunk_gives_the_tokens_of_each_delta() -> None:
    answer = UpstreamAnswer(read_call("hay", {}))
    counted = [chunk("a") | {"usage": {"completion_tokens": so_far}} for so_far in (3, 3, 7)]
    assert tokens(answer, *counted, chunk(None, "stop") | {"usage": {"completion_tokens": 8}}) == [3, 0, 4]
    assert answer.unreported_tokens() == [1]


def test_a_decreasing_count_does_not_remove_tokens() -> None:
    answer = UpstreamAnswer(read_call("hay", {}))
    counted = [chunk("a") | {"usage": {"completion_tokens": so_far}} for so_far in (0, 5, 2)]
    assert tokens(answer, *counted) == [1, 4, 0]
    assert answer.unreported_tokens() == [0]


def test_log_probabilities_are_of_one_token_each() -> None:
    answer = UpstreamAnswer(read_call("hay", {"logprobs": 0}))
    columns = {"tokens": ["a", "b", "c"], "token_logprobs": [-1.0, -1.0, -1.0]}
    assert tokens(answer, chunk("abc", logprobs=columns), chunk("abc", "stop", logprobs=columns)) == [3, 3]
    assert answer.unreported_tokens() == [0]
    assert answer.output()["usage"]["completion_tokens"] == 6


def test_tokens_of_several_choices_are_divided_by_their_chunks() -> None:
    answer = UpstreamAnswer(read_call("hay", {"n": 3}))
    chunks = [chunk("a", index=index) for index in (0, 1, 1, 1)]
    assert tokens(answer, *chunks, usage(completion_tokens=11)) == [1, 1, 0, 0]
    assert answer.unreported_tokens() == [3, 6, 0]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"choices": 5}, "choices"),
        ({"choices": [5]}, "choices"),
        (chunk("x", index=3), "index takes a whole number from 0 to 0, not 3"),
        (chunk("x", index=-1), "index takes a whole number from 0 to 0, not -1"),
        ({"choices": [{"index": True, "text": "x"}]}, "index"),
        ({"choices": [{"index": "a"}]}, "index"),
        ({"choices": [{"delta": 5}]}, "delta"),
        ({"choices": [{"delta": {"content": [{"type": "text", "text": "x"}]}}]}, "delta.content .*, not list"),
        ({"choices": [{"text": 5}]}, "text takes a string or null, not 5"),
        (chunk("x", 9), "finish_reason"),  # type: ignore[arg-type]
        ({"choices": [{"text": "x", "logprobs": {"content": [5]}}]}, "logprobs.content"),
        ({"choices": [{"text": "x", "logprobs": {"content": [{"token": 5}]}}]}, "token takes a string"),
        ({"choices": [{"text": "x", "logprobs": {"content": [{"token": "x", "logprob": "y"}]}}]}, "logprob"),
        ({"choices": [{"text": "x", "logprobs": {"content": [{"token": "x", "bytes": [256]}]}}]}, "bytes"),
        ({"choices": [{"text": "x", "logprobs": {"tokens": ["x"]}}]}, "columns of the same length"),
        ({"usage": "many"}, "usage takes an object or null, not str"),
        (usage(completion_tokens=-3), "completion_tokens takes a whole number from 0 to 1000000000, not -3"),
        (usage(completion_tokens=1.5), "not 1.5"),
        (usage(prompt_tokens=1e30), "prompt_tokens"),
        (usage(prompt_tokens="x"), "prompt_tokens .*, not str"),
        (usage(prompt_tokens_details=5), "prompt_tokens_details"),
        (usage(prompt_tokens_details={"cached_tokens": "z"}), "cached_tokens"),
    ],
)
def test_an_invalid_chunk_is_a_value_error_that_names_the_field(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"an invalid chunk: .*{named}"):
        UpstreamAnswer(read_call("hay", {"logprobs": 1})).take(wrong)
