"""JSON schemas in the worker: random texts that the token masks allow meet them, and the cache is bounded."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer

from tests.support.schemas import TAKEN
from tests.support.tiny_llama import EOS, VOCABULARY, save_byte_tokenizer
from windrow.errors import InvalidInput
from windrow.worker.engines.generation.constraints import (
    MAX_COMPILED,
    CompiledSchema,
    Constraint,
    SchemaCompiler,
    empty_masks,
    unpacked,
)

#: After this many tokens a text is led to its end, and it has at most this many.
LONG, LONGEST = 60, 600
CLOSING = b'"}],0:1'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> SchemaCompiler:
    return SchemaCompiler(tokenizer, VOCABULARY, [EOS])


def random_text(compiled: CompiledSchema, drawn: random.Random) -> bytes | None:
    """A text that the masks allow, of printable characters if possible; None for one that is too long."""
    constraint, made = Constraint(compiled), bytearray()
    while len(made) < LONGEST:
        masks = empty_masks(1, VOCABULARY)
        assert constraint.fill(masks, 0) is None
        allowed = [int(token) for token in unpacked(masks, VOCABULARY)[0].nonzero()]
        assert allowed, f"nothing may come after {bytes(made)!r}"
        if EOS in allowed and (len(allowed) == 1 or len(made) > LONG or drawn.random() < 0.5):
            return bytes(made)
        shown = [token for token in allowed if 32 <= token < 127] or [token for token in allowed if token != EOS]
        closing = [token for token in shown if token in CLOSING]
        token = drawn.choice(closing if closing and drawn.random() < (0.3, 0.95)[len(made) > LONG] else shown)
        constraint.drew(torch.tensor([token]), 0, None)
        made.append(token)
    return None


@pytest.mark.parametrize("schema", TAKEN, ids=str)
def test_texts_that_the_masks_allow_meet_the_schema(compiler: SchemaCompiler, schema: dict[str, Any]) -> None:
    compiled = compiler.compile(schema)
    texts = [random_text(compiled, random.Random(seed)) for seed in range(12)]
    ended = [text for text in texts if text is not None]
    assert ended
    for text in ended:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"properties": {"a": {"const": 1}, "b": {"const": [1, 2]}}, "required": ["a", "b"]}, b'{"a": 1, "b": [1, 2]}'),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]}, b"[1, 2]"),
        ({"type": "string", "pattern": "b"}, b'"b"'),
    ],
)
def test_a_text_has_no_free_white_space_nor_anything_that_the_schema_does_not_name(
    compiler: SchemaCompiler, schema: dict[str, Any], text: bytes
) -> None:
    assert random_text(compiler.compile(schema), random.Random(0)) == text


def test_after_the_end_of_a_text_every_token_is_allowed(compiler: SchemaCompiler) -> None:
    constraint = Constraint(compiler.compile({"const": 1}))
    for token in (ord("1"), EOS):
        constraint.fill(empty_masks(1, VOCABULARY), 0)
        constraint.drew(torch.tensor([token]), 0, None)
    masks = empty_masks(1, VOCABULARY)
    assert constraint.fill(masks, 0) is None
    assert (masks == -1).all()


def test_the_least_recently_used_schemas_are_dropped(compiler: SchemaCompiler) -> None:
    first = compiler.compile({"const": 0})
    assert compiler.compile({"const": 0}) is first
    for number in range(1, MAX_COMPILED + 1):
        compiler.compile({"const": number})
    assert compiler.compile({"const": 0}) is not first


def test_a_schema_whose_states_reach_their_limit_fails_its_text_and_is_compiled_anew(compiler: SchemaCompiler) -> None:
    schema = {"type": "string", "pattern": "(a|b)*a(a|b){40}"}
    compiled = compiler.compile(schema)
    constraint, drawn, error = Constraint(compiled), random.Random(0), None
    constraint.drew(torch.tensor([ord('"')]), 0, None)
    for _ in range(100_000):
        if error := constraint.fill(empty_masks(1, VOCABULARY), 0):
            break
        constraint.drew(torch.tensor([drawn.choice(b"ab")]), 0, None)
    assert error is not None
    assert error.startswith("parameters.schema: the text cannot be held to it any further: ")
    assert compiler.compile(schema) is not compiled


def test_a_tokenizer_that_is_not_supported_refuses_schemas_only() -> None:
    from tokenizers.models import WordPiece

    compiler = SchemaCompiler(Tokenizer(WordPiece({"a": 0}, unk_token="a")), 1, [0])
    with pytest.raises(InvalidInput, match="does not support this model's tokenizer"):
        compiler.compile({"type": "string"})
