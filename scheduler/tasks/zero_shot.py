"""Task ``zero-shot``: which of the caller's own labels fit a text, by a model that knows what follows from what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from windrow.errors import InvalidInput
from windrow.scheduler.tasks.base import Parameters, Task, Text, require_characters, require_string

MAX_LABELS = 200
#: Where the label goes.
BLANK = "{}"
#: Of the templates of one request, filled in for all its labels: a template may have many blanks, and labels are long,
#: so that a body of kilobytes could ask for gigabytes.
MAX_HYPOTHESES_CHARACTERS = 200_000


class ZeroShotParameters(Parameters):
    """Parameters of task zero-shot."""

    labels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_LABELS)] = Field(
        description="What the text may be about.", examples=[["harvest", "weather"]]
    )
    hypothesis_template: str = Field(
        "This example is {}.", description="What is held against the text for each label; {} is where the label goes."
    )
    multi_label: bool = Field(
        False, description="Score each label by itself, 0 to 1, instead of scores that add up to 1 over all of them."
    )

    @field_validator("hypothesis_template")
    @classmethod
    def _has_a_blank(cls, template: str) -> str:
        if BLANK not in template:
            raise ValueError("takes a sentence with {}, where the label goes")
        return template


def _texts(value: object, parameters: ZeroShotParameters, where: str) -> list[Text]:
    text = require_string("zero-shot", value, where)
    template = require_characters(parameters.hypothesis_template, "parameters.hypothesis_template")
    labels = [require_characters(label, f"parameters.labels.{at}") for at, label in enumerate(parameters.labels)]
    blanks = template.count(BLANK)
    characters = sum(len(template) + blanks * (len(label) - len(BLANK)) for label in labels)
    if characters > MAX_HYPOTHESES_CHARACTERS:
        raise InvalidInput(
            f"parameters.hypothesis_template: filled in for all labels it makes {characters} characters; takes at most "
            f"{MAX_HYPOTHESES_CHARACTERS} in all"
        )
    # Not str.format: a template is a client's, and its fields can name more than the label.
    return [(text, template.replace(BLANK, label)) for label in labels]


def _name_of(where: str, index: int) -> str:
    return f"{where} with parameters.labels.{index}"


ZERO_SHOT = Task("zero-shot", ZeroShotParameters, _texts, reads_pairs=True, cut="only_first", name_of=_name_of)
