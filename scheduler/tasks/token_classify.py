"""Task ``token-classify``: a label for each token of a text, or the entities that its tokens form.

Input: a string. Cost: its tokens. Output: ``{"entities": [...]}``. With ``aggregation: "none"`` an entity is
``{entity, score, index, word, start, end}``, otherwise ``{entity_group, score, word, start, end}``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windrow.scheduler.tasks.base import Parameters, Task, string_texts

Aggregation = Literal["none", "simple", "first", "average", "max"]


class TokenClassifyParameters(Parameters):
    """Parameters of task token-classify."""

    aggregation: Aggregation = Field(
        "none",
        description="none: each token by itself. simple: adjacent tokens with the same label form an entity. "
        "first, average, max: the same, after all tokens of a word got one label: that of its first token, of the mean "
        "of its scores, or of its highest score.",
    )


TOKEN_CLASSIFY = Task("token-classify", TokenClassifyParameters, string_texts("token-classify"))
