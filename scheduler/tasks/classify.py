"""Task ``classify``: the best label of a text and the score of every label.

Input: a string. Cost: its tokens. Output: ``{"label": str, "score": float, "scores": {label: float}}``.
"""

from __future__ import annotations

from windrow.scheduler.tasks.base import Parameters, Task, string_texts


class ClassifyParameters(Parameters):
    """Parameters of task classify."""


CLASSIFY = Task("classify", ClassifyParameters, string_texts("classify"))
