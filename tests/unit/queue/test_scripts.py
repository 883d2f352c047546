"""The Lua scripts: each receives the keys that it uses and no others."""

from __future__ import annotations

import re

import pytest

from windrow.scheduler.queue.keys import KEY_NAMES
from windrow.scheduler.queue.scripts import NAMES, source


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_script_receives_exactly_the_keys_that_it_uses(name: str) -> None:
    keys, code = source(name)
    body = [line for line in code.splitlines() if not re.match(r"local \w+ = KEYS\[", line)]
    used = {word.lower() for word in re.findall(r"\b[A-Z_]+\b", "\n".join(body))} & KEY_NAMES
    assert used == set(keys)


def test_all_keys_are_documented_in_the_schema_and_used() -> None:
    assert {key for name in NAMES for key in source(name).keys} == KEY_NAMES


def test_a_script_is_sent_without_comments() -> None:
    assert "--" not in source("submit").code.replace("'--'", "")
