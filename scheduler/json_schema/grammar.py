"""Turn JSON schemas into grammars of llguidance, the optional library that holds generated text to a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from windrow.errors import InvalidInput
from windrow.scheduler.json_schema.keywords import SchemaError
from windrow.scheduler.json_schema.prepared import prepared_schema

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MISSING = (
    "parameters.schema: llguidance is not installed here, so no text can be held to a schema; "
    "run pip install llguidance, or install windrow-inference[schema]"
)
#: Characters of the path that an error names.
MAX_PLACE = 200
#: States of the lexer, of about 500 bytes each. A string of 10,000 characters at most takes about 10,000 of them.
MAX_LEXER_STATES = 50_000
#: No free white space, which some models never leave again.
OPTIONS: Any = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True,
}  # fmt: skip


def grammar_of(schema: Mapping[str, Any]) -> str:
    """Return llguidance's grammar for texts that meet ``schema``.

    Raises `InvalidInput`, with the path of the keyword, for what would not be enforced, and if llguidance is missing.
    """
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise InvalidInput(MISSING) from None
    try:
        prepared = prepared_schema(schema)
    except SchemaError as error:
        at = error.at if len(error.at) <= MAX_PLACE else f"...{error.at[-MAX_PLACE:]}"
        raise InvalidInput(f"parameters.schema{at}: {error}") from None
    grammar: str = LLMatcher.grammar_from_json_schema(json.dumps(prepared), overrides=OPTIONS)
    return grammar


def require_enforced(schema: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for a schema that generated text cannot be held to.

    ``schema`` passed `bounds.require_bounded`.
    """
    started_matcher(grammar_of(schema), _byte_tokenizer())


def started_matcher(grammar: str, tokenizer: LLTokenizer) -> LLMatcher:
    """Return a matcher that knows which tokens may come first. Raises `InvalidInput` if none may."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise InvalidInput(f"parameters.schema: no text can be held to it: {error_reason(matcher.get_error())}")
    return matcher


def error_reason(message: str) -> str:
    """Return what is wrong with a schema, from an error message of llguidance."""
    reason = message.strip().partition("\n")[0]
    return "no text meets it" if reason.startswith("NoExtension") else reason[:500]


@cache
def _byte_tokenizer() -> LLTokenizer:
    """Return a tokenizer whose tokens are bytes: what a grammar allows does not depend on the vocabulary."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")
