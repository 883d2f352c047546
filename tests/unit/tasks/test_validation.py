"""Validation errors name the field, the wrong value and what is accepted."""

from __future__ import annotations

import pytest
from pydantic import Field

from windrow.errors import InvalidInput
from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.tasks.validation import Count, Strict, parse


class Thing(Strict):
    size: Count = 1
    names: list[str] = Field(["a"], min_length=1, max_length=2)
    word: str = Field("a", min_length=1, max_length=2, pattern="^[a-z]*$")


def test_values_are_described_by_their_json_type() -> None:
    values = [None, True, 1, 1.5, "", [], {}]
    names = ["null", "a boolean", "a number", "a number", "a string", "an array", "an object"]
    assert [json_type(value) for value in values] == names


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": 0}, "input.size: should be greater than or equal to 1, not 0"),
        ({"size": "1"}, "input.size: should be a valid integer, not '1'"),
        ({"size": True}, "input.size: should be a valid integer, not True"),
        ({"size": -1e21}, "input.size: should be greater than or equal to 1, not -1000000000000000000000"),
        ({"word": ""}, "input.word: should have at least 1 character, not ''"),
        ({"word": "abc"}, "input.word: should have at most 2 characters, not 'abc'"),
        ({"word": "1"}, "input.word: should match pattern"),
        ({"names": []}, "input.names: takes at least 1, not 0"),
        ({"names": ["a", "b", "c"]}, "input.names: takes at most 2, not 3"),
        ({"names": ["a", None]}, "input.names.1: should be a valid string, not null"),
        ({"colour": "red"}, "input.colour: unknown member; accepted: size, names, word"),
        ({"size": 0, "names": 5}, "input.size: .*; input.names: should be a valid list, not 5"),
    ],
)
def test_the_error_names_each_wrong_field(value: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(Thing, value, where="input", what="member")


def test_a_float_without_a_fraction_is_accepted_as_an_integer() -> None:
    assert parse(Thing, {"size": 3.0}).size == 3
    with pytest.raises(InvalidInput, match=r"size: should be a valid integer.*, not 3\.5"):
        parse(Thing, {"size": 3.5})


def test_thousands_of_problems_make_a_short_error() -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(Thing, {"x" * 500: 1, **{f"name{number}": 1 for number in range(1000)}})
    assert len(raised.value.detail) < 1000
