"""Task ``token-classify``: what each token of a text is, or which entities its tokens make."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windrow.scheduler.tasks.base import Parameters, Task, Text, require_string

Aggregation = Literal["none", "simple", "first", "average", "max"]


class TokenClassifyParameters(Parameters):
    """Parameters of task token-classify."""

    aggregation: Aggregation = Field(
        "none",
        description="none: each token by itself. simple: neighbours of one label make an entity. first, average, max: "
        "the same after all tokens of a word were given one label, that of the first, of the mean, of the surest.",
    )


def _texts(value: object, parameters: TokenClassifyParameters, where: str) -> list[Text]:
    return [require_string("token-classify", value, where)]


TOKEN_CLASSIFY = Task("token-classify", TokenClassifyParameters, _texts)
