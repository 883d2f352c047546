"""What the routes call the inputs and the parameters of a task, so that errors name fields as clients sent them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from windrow.errors import InvalidInput

#: How errors name an input: alone or by its index, and the member of it that is wrong.
INPUT = re.compile(r"inputs?(?P<index>\.\d+)?(?:\.(?:prompt_ids|prompt|messages))?(?=[.:])")
#: How they name a parameter.
PARAMETER = re.compile(r"\bparameters\.(?P<name>\w+)")


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The names of one call."""

    #: The field whose values are the inputs.
    inputs: str
    #: Parameters that came by another name than the task has for them -> that name.
    parameters: Mapping[str, str] = field(default_factory=dict)

    def in_words(self, detail: str) -> str:
        """An error's ``detail`` in the client's words."""
        detail = INPUT.sub(lambda match: self.inputs + (match["index"] or ""), detail, count=1)
        return PARAMETER.sub(lambda match: self.parameters.get(match["name"], match["name"]), detail)

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Say what is wrong with inputs and parameters in the client's words."""
        try:
            yield
        except InvalidInput as error:
            raise type(error)(self.in_words(error.detail), retry_after_s=error.retry_after_s) from None
