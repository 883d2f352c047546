"""Bodies of OpenAI's clients become inputs and parameters of a task, or are refused with the name of the field."""

from typing import Any

import pytest
from pydantic import BaseModel

from windrow.api.openai.fields import supported_fields
from windrow.api.openai.request_schemas import ChatRequest, CompletionRequest, EmbeddingsRequest
from windrow.errors import InvalidInput
from windrow.scheduler.tasks.generate import read_call
from windrow.scheduler.tasks.validation import parse

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hay?"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hay"}


def chat(**more: Any) -> ChatRequest:
    return parse(ChatRequest, supported_fields(CHAT | more))


def completion(**more: Any) -> CompletionRequest:
    return parse(CompletionRequest, supported_fields(COMPLETION | more))


def refusal(kind: type[BaseModel], body: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as raised:
        parse(kind, supported_fields(body))
    return raised.value.detail


def test_a_chat_becomes_one_input_with_openais_default_temperature() -> None:
    request = chat()
    assert request.inputs() == [{"messages": [{"role": "user", "content": "hay?"}]}]
    assert request.parameters() == {"temperature": 1.0}


def test_temperature_zero_is_the_default_of_the_task() -> None:
    assert chat(temperature=0).parameters() == {}


@pytest.mark.parametrize(
    ("sent", "parameters"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 5}, {"max_tokens": 5}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
        ({"n": 3, "seed": 7, "top_p": 0.5}, {"n": 3, "seed": 7, "top_p": 0.5}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1.0, "frequency_penalty": -1.0}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": 2}),
        ({"logprobs": False}, {}),
        ({"top_k": 4, "min_tokens": 2, "ignore_eos": True}, {"top_k": 4, "min_tokens": 2, "ignore_eos": True}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"schema": {"type": "object"}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string"}}}},
            {"schema": {"type": "string"}},
        ),
    ],
)
def test_sampling_parameters_are_passed_to_the_task(sent: dict[str, Any], parameters: dict[str, Any]) -> None:
    request = chat(temperature=0, **sent)
    assert request.parameters() == parameters
    read_call(request.inputs()[0], request.parameters())


def test_text_parts_of_a_message_are_joined_and_its_nulls_removed() -> None:
    parts = [{"type": "text", "text": "dry "}, {"type": "text", "text": "hay"}]
    answer = {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None}
    assert chat(messages=[{"role": "user", "content": parts}, answer]).inputs() == [
        {"messages": [{"role": "user", "content": "dry hay"}, {"role": "assistant", "content": "yes"}]}
    ]


def test_the_name_in_a_message_is_ignored() -> None:
    named = {"role": "user", "content": "hay?", "name": "mower"}
    assert chat(messages=[named]).inputs() == chat().inputs()


@pytest.mark.parametrize(
    ("prompt", "inputs"),
    [
        ("a", [{"prompt": "a"}]),
        (["a", "b"], [{"prompt": "a"}, {"prompt": "b"}]),
        ([1, 2], [{"prompt_ids": [1, 2]}]),
        ([[1], [2, 3]], [{"prompt_ids": [1]}, {"prompt_ids": [2, 3]}]),
    ],
)
def test_each_prompt_becomes_an_input(prompt: object, inputs: list[dict[str, Any]]) -> None:
    request = completion(prompt=prompt)
    assert request.inputs() == inputs
    assert request.parameters() == {"temperature": 1.0, "max_tokens": 16}


def test_logprobs_of_a_completion_is_a_number() -> None:
    assert completion(logprobs=2, temperature=0).parameters()["logprobs"] == 2


def test_nulls_hints_and_default_values_are_removed() -> None:
    sent = {
        "user": "u",
        "metadata": {"a": "b"},
        "seed": None,
        "tools": [],
        "logit_bias": {},
        "store": False,
        "echo": False,
    }
    assert supported_fields(COMPLETION | sent) == COMPLETION


@pytest.mark.parametrize(
    ("name", "value"),
    [("tools", [{"type": "function"}]), ("logit_bias", {"5": 1}), ("echo", True), ("echo", 0), ("best_of", 2),
     ("suffix", "end"), ("modalities", ["audio"]), ("service_tier", "flex")],
)  # fmt: skip
def test_an_unsupported_field_is_refused_with_its_name(name: str, value: object) -> None:
    assert refusal(ChatRequest, CHAT | {name: value}).startswith(f"{name}: is not supported")


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"temperatur": 1}, "temperatur: unknown field; accepted: "),
        ({"messages": []}, "messages: takes at least 1"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content: "),
        ({"messages": [{"role": "user", "content": "x", "mood": "dry"}]}, "messages.0.mood: unknown"),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, "messages.0.name: "),
        ({"temperature": -1}, "temperature: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens: differs from max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs: requires logprobs: true"),
        ({"stream_options": {"include_usage": True}}, "stream_options: requires stream: true"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format: json_schema is required with type json_schema",
        ),
        ({"n": 17}, "n: "),
        ({"stop": ["a"] * 17}, "stop: "),
    ],
)
def test_an_invalid_field_of_a_chat_is_refused_with_its_name(more: dict[str, Any], start: str) -> None:
    assert refusal(ChatRequest, CHAT | more).startswith(start)


@pytest.mark.parametrize("prompt", [5, [], [1, "a"], [[]], {"a": 1}, [True]])
def test_an_invalid_prompt_is_refused_with_its_name(prompt: object) -> None:
    assert refusal(CompletionRequest, {"model": "m", "prompt": prompt}).startswith("prompt: takes a string, an array")


def test_the_input_of_embeddings_is_a_text_or_a_list_of_texts() -> None:
    assert parse(EmbeddingsRequest, {"model": "m", "input": "a"}).inputs() == ["a"]
    assert parse(EmbeddingsRequest, {"model": "m", "input": ["a", "b"]}).inputs() == ["a", "b"]


@pytest.mark.parametrize("texts", [[], 5, ["a", 1], {"a": "b"}])
def test_an_invalid_input_of_embeddings_is_refused(texts: object) -> None:
    assert refusal(EmbeddingsRequest, {"model": "m", "input": texts}) == (
        "input: takes a string or an array of at least one string"
    )


@pytest.mark.parametrize("ids", [[1, 2], [[1], [2]]])
def test_token_ids_as_the_input_of_embeddings_are_refused_with_the_reason(ids: object) -> None:
    detail = refusal(EmbeddingsRequest, {"model": "m", "input": ids})
    assert detail.startswith("input: does not take token ids, because every model has its own tokenizer")
