"""Outputs of tasks become OpenAI's objects."""

import pytest

from windrow.api.openai import answers
from windrow.api.openai.errors import openai_error

HEAD = answers.head("completion", "id", 12.9, "m")
TOP = {"token": "b", "logprob": -2.0, "bytes": [98]}
ENTRY = {"token": "hay", "logprob": -0.5, "bytes": [104, 97, 121], "top_logprobs": [TOP]}


def output(text: str, **more: object) -> dict[str, object]:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cached_tokens": 1}
    return {"text": text, "finish_reason": "stop", "usage": usage} | more


def test_choices_of_several_prompts_are_numbered_consecutively() -> None:
    two = output("a", choices=[{"index": 0, "text": "a", "finish_reason": "stop"},
                               {"index": 1, "text": "b", "finish_reason": "length"}])  # fmt: skip
    answer = answers.generated("completion", HEAD, [two, output("c")])
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in answer["choices"]] == [
        (0, "a", "stop"), (1, "b", "length"), (2, "c", "stop"),
    ]  # fmt: skip
    assert answer["usage"] == {
        "prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2},
    }  # fmt: skip
    assert (answer["id"], answer["object"], answer["created"], answer["model"]) == (
        "cmpl-id",
        "text_completion",
        12,
        "m",
    )


def test_a_chat_answer_has_messages() -> None:
    (choice,) = answers.generated("chat", HEAD, [output("hay", logprobs=[ENTRY])])["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hay", "refusal": None}
    assert choice["logprobs"] == {"content": [ENTRY], "refusal": None}


def test_log_probabilities_of_a_completion_are_columns() -> None:
    assert answers.completion_logprobs([ENTRY, ENTRY], offset=4) == {
        "tokens": ["hay", "hay"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"b": -2.0, "hay": -0.5}, {"b": -2.0, "hay": -0.5}],
        "text_offset": [4, 7],
    }


def test_embeddings_are_in_input_order_as_floats_or_base64() -> None:
    answer = answers.embeddings("m", [{"embedding": [1.0]}, {"embedding": "AACAPw=="}], 4)
    assert [(vector["index"], vector["embedding"]) for vector in answer["data"]] == [(0, [1.0]), (1, "AACAPw==")]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


@pytest.mark.parametrize(
    ("status", "detail", "code", "error"),
    [
        (400, "n: too many", "invalid_input", ("invalid_request_error", "n", "invalid_input")),
        (400, "messages.0.role: x", "invalid_input", ("invalid_request_error", "messages.0.role", "invalid_input")),
        (404, "no model 'x' is served", "unknown_model", ("invalid_request_error", None, "model_not_found")),
        (400, "input: long", "input_too_long", ("invalid_request_error", "input", "context_length_exceeded")),
        (401, "no key", "unauthorized", ("authentication_error", None, "invalid_api_key")),
        (429, "too many", "quota_exceeded", ("rate_limit_error", None, "rate_limit_exceeded")),
        (503, "Redis: away", "redis_unavailable", ("server_error", None, "redis_unavailable")),
    ],
)
def test_errors_have_openais_type_code_and_field(
    status: int, detail: str, code: str, error: tuple[str, str | None, str]
) -> None:
    kind, param, theirs = error
    expected = {"message": detail, "type": kind, "param": param, "code": theirs}
    assert openai_error(status, detail, code) == {"error": expected}
