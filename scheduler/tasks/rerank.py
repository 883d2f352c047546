"""Task ``rerank``: a cross-encoder scores how well each document answers a query.

Input: ``{"query": str, "documents": [str]}``. Cost: the tokens of each document together with the query. Output:
``{"scores": [float]}`` in the order of the documents, and with ``top_n`` also ``"results": [{"index": int,
"score": float}]``, the best first.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from windrow.errors import InvalidInput
from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.tasks.base import Parameters, Task, Text, require_characters
from windrow.scheduler.tasks.validation import Count, Strict, parse

MAX_DOCUMENTS = 1000


class RerankInput(Strict):
    """Input of task rerank; the model reads the query with each document."""

    query: str
    documents: Annotated[list[str], Field(min_length=1, max_length=MAX_DOCUMENTS)]


class RerankParameters(Parameters):
    """Parameters of task rerank."""

    top_n: Count | None = Field(None, description="Also return `results`: the N best documents, the best first.")


def _texts(value: object, parameters: RerankParameters, where: str) -> list[Text]:
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{where}: a model of task rerank takes an object with query and documents, not {json_type(value)}"
        )
    pairs = parse(RerankInput, value, where=where)
    query = require_characters(pairs.query, f"{where}.query")
    return [(query, require_characters(text, _text_name(where, index))) for index, text in enumerate(pairs.documents)]


def _text_name(where: str, index: int) -> str:
    return f"{where}.documents.{index}"


RERANK = Task("rerank", RerankParameters, _texts, input=RerankInput, reads_pairs=True, text_name=_text_name)
