"""The inputs and parameters of task generate, and the errors for invalid ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.errors import InvalidInput
from windrow.scheduler.tasks.generate import (
    DEFAULT_MAX_TOKENS,
    GENERATE,
    TOKENS_PER_MESSAGE,
    read_call,
    read_parameters,
    read_prompt,
)
from windrow.scheduler.tasks.upstream import UPSTREAM

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is the hay dry?"}]


def test_the_default_is_greedy_with_the_default_length() -> None:
    call = read_call("Make hay", {})
    assert call.prompt.prompt == "Make hay"
    assert (call.parameters.temperature, call.parameters.n, call.parameters.stop) == (0.0, 1, ())
    assert call.parameters.max_tokens is None
    assert call.parameters.wanted_tokens == DEFAULT_MAX_TOKENS


def test_a_prompt_is_a_text_token_ids_or_a_chat() -> None:
    assert read_prompt({"prompt": "hay"}) == read_prompt("hay")
    assert read_prompt({"prompt_ids": [1, 2]}).prompt_ids == [1, 2]
    messages = read_prompt({"messages": CHAT}).messages
    assert messages is not None
    assert [turn.role for turn in messages] == ["system", "user"]


def test_a_stop_string_is_a_list_of_one_and_logprobs_true_means_zero() -> None:
    assert read_parameters({"stop": "\n"}).stop == ("\n",)
    assert read_parameters({"stop": ["a", "b"]}).stop == ("a", "b")
    assert [read_parameters({"logprobs": asked}).logprobs for asked in (True, False, None, 5)] == [0, None, None, 5]


def test_min_tokens_above_the_default_raise_max_tokens() -> None:
    assert read_parameters({"min_tokens": 1000}).wanted_tokens == 1000


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "input: takes a string, or an object with one of prompt, prompt_ids, messages"),
        ({}, "input: takes exactly one of"),
        ({"prompt": "a", "prompt_ids": [1]}, "input: takes exactly one of"),
        ({"prompt": 1}, "input.prompt: should be a valid string, not 1"),
        ({"prompt_ids": []}, "input.prompt_ids: "),
        ({"prompt_ids": [-1]}, "input.prompt_ids.0: should be greater than or equal to 0, not -1"),
        ({"messages": []}, "input.messages: "),
        ({"messages": [{"role": "king", "content": "a"}]}, "input.messages.0.role: should be 'system', "),
        ({"messages": [{"role": "user"}]}, "input.messages.0.content: "),
        ({"messages": [{"role": "user", "content": "a", "mood": 1}]}, "input.messages.0.mood: unknown"),
        ("half \ud800", "half a surrogate pair"),
    ],
)
def test_an_invalid_prompt_is_refused_with_its_field(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_prompt(value)
    assert said in refused.value.detail


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_tokens": 0}, "parameters.max_tokens: should be greater than or equal to 1, not 0"),
        ({"max_tokens": 1.5}, "parameters.max_tokens: "),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens 3 is above max_tokens 2"),
        ({"temperature": -0.1}, "parameters.temperature: should be greater than or equal to 0, not -0.1"),
        ({"temperature": float("nan")}, "parameters.temperature: "),
        ({"temperature": True}, "parameters.temperature: "),
        ({"top_p": 0}, "parameters.top_p: "),
        ({"seed": -1}, "parameters.seed: "),
        (
            {"seed": float(2**70)},
            "parameters.seed: should be less than 9223372036854775808, not 1180591620717411303424",
        ),
        ({"seed": 1.5}, "parameters.seed: should be a valid integer, not 1.5"),
        ({"stop": 3}, "parameters.stop: takes a string or a list of strings"),
        ({"stop": [""]}, "parameters.stop.0: "),
        ({"stop": ["x"] * 17}, "parameters.stop: "),
        ({"logprobs": 21}, "parameters.logprobs: "),
        ({"n": 0}, "parameters.n: "),
        ({"best_of": 2}, "parameters.best_of: unknown parameter; accepted: truncate, max_tokens, "),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_its_name(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_parameters(parameters)
    assert said in refused.value.detail


def test_an_unbounded_schema_is_refused_before_anything_else_reads_it() -> None:
    nest: dict[str, Any] = {"type": "string"}
    for _ in range(450):
        nest = {"type": "array", "items": nest}
    with pytest.raises(InvalidInput, match=r"parameters\.schema: takes at most 64 levels of nested objects and arrays"):
        read_parameters({"schema": nest})
    with pytest.raises(InvalidInput, match=r"parameters\.schema: takes at most 32768 bytes"):
        read_parameters({"schema": {"enum": [f"value {number}" for number in range(15_000)]}})
    with pytest.raises(InvalidInput, match=r"parameters\.schema\.not: is not enforced"):
        read_parameters({"schema": {"not": {}}})


def test_an_upstream_model_checks_only_the_size_of_a_schema() -> None:
    assert UPSTREAM.read_parameters({"schema": {"not": {}}}).json_schema == {"not": {}}
    with pytest.raises(InvalidInput, match="at most 32768 bytes"):
        UPSTREAM.read_parameters({"schema": {"const": "x" * 40_000}})


def test_the_field_of_a_schema_is_named_schema() -> None:
    assert read_parameters({"schema": {"type": "object"}}).json_schema == {"type": "object"}
    with pytest.raises(InvalidInput, match="n, schema"):
        read_parameters({"json_schema": {}})


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=50), min_size=1, max_size=5),
    st.integers(1, 4096),
    st.integers(1, 16),
)
def test_a_request_is_charged_for_its_prompt_once_and_for_all_that_may_come(
    turns: list[str], max_tokens: int, n: int
) -> None:
    messages = [{"role": "user", "content": text} for text in turns]
    value, parameters = {"messages": messages}, read_parameters({"max_tokens": max_tokens, "n": n})
    cost = GENERATE.extra_tokens(value, parameters)
    assert cost == n * max_tokens + TOKENS_PER_MESSAGE * len(turns)
    assert GENERATE.texts(value, parameters, "input") == turns
    assert GENERATE.extra_tokens({"prompt_ids": [1, 2, 3]}, parameters) == n * max_tokens + 3
