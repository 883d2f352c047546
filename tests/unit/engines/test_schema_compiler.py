"""What comes of schemas in the worker: random answers meet them, and grammars are not kept for ever."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import xgrammar

from tests.support.schemas import TAKEN
from tests.support.tiny_llama import EOS, VOCABULARY, save_tiny_llama
from windrow.worker.engines.generation.constraints import SchemaCompiler, empty_masks, unpacked

#: So many tokens after which an answer is led to its end, and so many that it has at most.
LONG, LONGEST = 60, 600
CLOSING = b'"}],0:1'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"), context_tokens=64)


def an_answer(grammar: Any, drawn: random.Random) -> bytes | None:
    """One that the grammar lets come, of printable characters where it may be; None for one that is too long."""
    matcher, masks, made = xgrammar.GrammarMatcher(grammar), empty_masks(1, VOCABULARY), bytearray()
    while len(made) < LONGEST:
        matcher.fill_next_token_bitmask(masks, 0)
        allowed = [int(token) for token in unpacked(masks, VOCABULARY)[0].nonzero()]
        assert allowed, f"nothing may come after {bytes(made)!r}"
        if EOS in allowed and (len(allowed) == 1 or len(made) > LONG or drawn.random() < 0.5):
            return bytes(made)
        shown = [token for token in allowed if 32 <= token < 127] or [token for token in allowed if token != EOS]
        closing = [token for token in shown if token in CLOSING]
        token = drawn.choice(closing if closing and drawn.random() < (0.3, 0.95)[len(made) > LONG] else shown)
        assert matcher.accept_token(token)
        made.append(token)
    return None


@pytest.mark.parametrize("schema", TAKEN, ids=str)
def test_what_the_grammar_of_a_schema_that_is_taken_lets_come_meets_it(folder: Path, schema: dict[str, Any]) -> None:
    grammar = SchemaCompiler(folder, VOCABULARY, [EOS]).compile(schema)
    answers = [an_answer(grammar, random.Random(seed)) for seed in range(12)]
    ended = [answer for answer in answers if answer is not None]
    assert ended
    for answer in ended:
        jsonschema.Draft202012Validator(schema).validate(json.loads(answer))


def test_grammars_of_schemas_that_nobody_sends_any_more_are_dropped(folder: Path) -> None:
    limit = 1 << 18
    schemas = SchemaCompiler(folder, VOCABULARY, [EOS], cache_bytes=limit)
    kept = []
    for number in range(60):
        schemas.compile({"enum": [f"{number} {value}" for value in range(150)]})
        kept.append(schemas.cached_bytes)
    assert kept[0] > limit / 60
    # The latest is looked at once it is in.
    assert max(kept) < limit + 2 * kept[0]
