"""Task ``rerank``: how well each document answers a query, read together with it by a cross-encoder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from windrow.errors import InvalidInput
from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.tasks.base import Parameters, Task, Text, require_characters
from windrow.scheduler.tasks.validation import Count, Strict, parse

MAX_DOCUMENTS = 1000


class RerankInput(Strict):
    """Input of task rerank: each document makes a pair with the query."""

    query: str
    documents: Annotated[list[str], Field(min_length=1, max_length=MAX_DOCUMENTS)]


class RerankParameters(Parameters):
    """Parameters of task rerank."""

    top_n: Count | None = Field(None, description="Also give `results`: the best so many documents, the best first.")


def _texts(value: object, parameters: RerankParameters, where: str) -> list[Text]:
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{where}: a model of task rerank takes an object with query and documents, not {json_type(value)}"
        )
    asked = parse(RerankInput, value, where=where)
    query = require_characters(asked.query, f"{where}.query")
    return [(query, require_characters(text, _name_of(where, at))) for at, text in enumerate(asked.documents)]


def _name_of(where: str, index: int) -> str:
    return f"{where}.documents.{index}"


RERANK = Task("rerank", RerankParameters, _texts, input=RerankInput, reads_pairs=True, name_of=_name_of)
