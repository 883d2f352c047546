"""Fields of OpenAI's that are taken for what they are: of no effect, or beyond what is done here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windrow.errors import InvalidInput

#: They tell OpenAI about the caller, or are hints; leaving them aside changes no answer.
HARMLESS = frozenset(
    {
        *("user", "metadata", "safety_identifier", "parallel_tool_calls"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    }
)
#: Nothing here does what they ask for -> the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}


def settle_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` without what has no effect: nulls, which OpenAI takes for absent, harmless fields and neutral values.

    Raises `InvalidInput` naming a field that asks for what is not done here.
    """
    settled = {}
    for name, value in body.items():
        if value is None or name in HARMLESS:
            continue
        if name not in UNSUPPORTED:
            settled[name] = value
        elif not any(value == neutral and type(value) is type(neutral) for neutral in UNSUPPORTED[name]):
            raise InvalidInput(f"{name}: this server cannot do that; leave it out")
    return settled
