"""What clients sent, held against a model: errors name the field, what came and what is taken."""

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


def test_json_types_have_the_names_that_json_gives_them() -> None:
    values = [None, True, 1, 1.5, "", [], {}]
    names = ["null", "a boolean", "a number", "a number", "a string", "an array", "an object"]
    assert [json_type(value) for value in values] == names


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"size": 0}, "input.size: should be greater than or equal to 1, not 0"),
        ({"size": "1"}, "input.size: should be a valid integer, not '1'"),
        ({"size": True}, "input.size: should be a valid integer, not True"),
        ({"size": -1e21}, "input.size: should be greater than or equal to 1, not -1000000000000000000000"),
        ({"word": ""}, "input.word: should have at least 1 character, not ''"),
        ({"word": "abc"}, "input.word: should have at most 2 characters, not 'abc'"),
        ({"word": "1"}, "input.word: should match pattern"),
        ({"names": []}, "input.names: takes at least 1, and none came"),
        ({"names": ["a", "b", "c"]}, "input.names: takes at most 2, and 3 came"),
        ({"names": ["a", None]}, "input.names.1: should be a valid string, not null"),
        ({"colour": "red"}, "input.colour: unknown member; accepted: size, names, word"),
        ({"size": 0, "names": 5}, "input.size: .*; input.names: should be a valid list, not 5"),
    ],
)
def test_each_problem_is_named(value: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(Thing, value, where="input", what="member")


def test_a_whole_number_may_be_written_as_json_may_write_it() -> None:
    assert parse(Thing, {"size": 3.0}).size == 3
    with pytest.raises(InvalidInput, match=r"size: should be a valid integer.*, not 3\.5"):
        parse(Thing, {"size": 3.5})


def test_a_flood_of_problems_makes_a_short_error() -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(Thing, {"x" * 500: 1, **{f"name{number}": 1 for number in range(1000)}})
    assert len(raised.value.detail) < 1000
