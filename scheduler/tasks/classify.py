"""Task ``classify``: the best label of a text and the score of every label.

Input: a string. Cost: its tokens. Output: ``{"label": str, "score": float, "scores": {label: float}}``.
"""

from __future__ import annotations

from windrow.scheduler.tasks.base import Parameters, Task, Text, require_string


class ClassifyParameters(Parameters):
    """Parameters of task classify."""


def _texts(value: object, parameters: ClassifyParameters, where: str) -> list[Text]:
    return [require_string("classify", value, where)]


CLASSIFY = Task("classify", ClassifyParameters, _texts)
