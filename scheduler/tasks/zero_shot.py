"""Task ``zero-shot``: which of the caller's own labels fit a text, scored by a natural language inference model.

Input: a string. Cost: the tokens of the text with the hypothesis of each label. Output: ``{"labels": [str],
"scores": [float]}``, the best first.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from windrow.errors import InvalidInput
from windrow.scheduler.tasks.base import Parameters, Task, Text, require_characters, require_string

MAX_LABELS = 200
#: The place of the label in a hypothesis template.
BLANK = "{}"
#: Upper limit of all hypotheses of a request together. Without it a body of kilobytes, a template of many blanks and
#: a long label, could ask for gigabytes.
MAX_HYPOTHESES_CHARACTERS = 200_000


class ZeroShotParameters(Parameters):
    """Parameters of task zero-shot."""

    labels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_LABELS)] = Field(
        description="The labels to choose from.", examples=[["harvest", "weather"]]
    )
    hypothesis_template: str = Field(
        "This example is {}.", description="The hypothesis about the text; {} is replaced with each label."
    )
    multi_label: bool = Field(
        False, description="Score each label by itself, from 0 to 1, instead of scores that sum to 1 over all labels."
    )

    @field_validator("hypothesis_template")
    @classmethod
    def _has_a_blank(cls, template: str) -> str:
        if BLANK not in template:
            raise ValueError("takes a sentence with {} in the place of the label")
        return template


def _texts(value: object, parameters: ZeroShotParameters, where: str) -> list[Text]:
    text = require_string("zero-shot", value, where)
    template = require_characters(parameters.hypothesis_template, "parameters.hypothesis_template")
    labels = [require_characters(label, f"parameters.labels.{index}") for index, label in enumerate(parameters.labels)]
    blanks = template.count(BLANK)
    characters = sum(len(template) + blanks * (len(label) - len(BLANK)) for label in labels)
    if characters > MAX_HYPOTHESES_CHARACTERS:
        raise InvalidInput(
            f"parameters.hypothesis_template: filled in for all labels it has {characters} characters; takes at most "
            f"{MAX_HYPOTHESES_CHARACTERS} in all"
        )
    # Not str.format: the template is the client's, and a field such as {0.__class__} could name more than the label.
    return [(text, template.replace(BLANK, label)) for label in labels]


def _text_name(where: str, index: int) -> str:
    return f"{where} with parameters.labels.{index}"


ZERO_SHOT = Task(
    "zero-shot", ZeroShotParameters, _texts, reads_pairs=True, truncation="only_first", text_name=_text_name
)
