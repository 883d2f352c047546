"""OpenAI's request fields: which have no effect, which are refused, and their names in errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from windrow.errors import InvalidInput

#: Fields that identify the caller or give hints; the result does not depend on them.
IGNORED = frozenset(
    ("user", "metadata", "safety_identifier", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options",
     "prompt_cache_retention")
)  # fmt: skip
#: Unsupported field -> its accepted values, which mean the same as omitting the field.
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
#: An input in an error of the task: without or with its index, and the member of it that is wrong.
INPUT = re.compile(r"inputs?(?P<index>\.\d+)?(?:\.(?:prompt_ids|prompt|messages))?(?=[.:])")
#: A parameter in an error of the task.
PARAMETER = re.compile(r"\bparameters\.(?P<name>\w+)")


def supported_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``body`` that this server supports.

    Nulls, which OpenAI treats as absent, and fields without effect are removed. Raises `InvalidInput` for an
    unsupported field unless its value means the same as omitting it.
    """
    supported = {}
    for name, value in body.items():
        if value is None or name in IGNORED:
            continue
        if name not in UNSUPPORTED:
            supported[name] = value
        elif not any(value == neutral and type(value) is type(neutral) for neutral in UNSUPPORTED[name]):
            raise InvalidInput(f"{name}: is not supported by this server; omit it")
    return supported


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The client's names for the inputs and parameters of a task, used in error messages."""

    #: The field that holds the inputs.
    inputs: str
    #: The task's name of a parameter -> the client's name, if it differs.
    parameters: Mapping[str, str] = field(default_factory=dict)

    def translate(self, detail: str) -> str:
        """Return an error's ``detail`` with the client's names."""
        detail = INPUT.sub(lambda match: self.inputs + (match["index"] or ""), detail, count=1)
        return PARAMETER.sub(lambda match: self.parameters.get(match["name"], match["name"]), detail)

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Translate every `InvalidInput` that the block raises."""
        try:
            yield
        except InvalidInput as error:
            raise type(error)(self.translate(error.detail), retry_after_s=error.retry_after_s) from None
