"""Entities from the scores of a text's tokens, as in the TokenClassificationPipeline of transformers.

https://huggingface.co/docs/transformers/main_classes/pipelines#transformers.TokenClassificationPipeline
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from windrow.scheduler.tasks.token_classify import Aggregation

Scores = NDArray[np.float32]
#: Turns tokens into the text that they stand for.
Join = Callable[[list[str]], str]
#: The label of tokens outside of all entities.
OUTSIDE = "O"


class Token(NamedTuple):
    """One token of a text; special tokens are left out."""

    #: Index among all tokens of the text, special tokens included, from 0.
    position: int
    text: str
    #: Range of characters in the text of the request.
    start: int
    end: int
    #: Whether it continues the word of the token before.
    continues_word: bool


class LabeledToken(NamedTuple):
    """A token, or all tokens of a word, with one label."""

    label: str
    score: float
    text: str
    start: int
    end: int
    position: int


def find_entities(
    tokens: Sequence[Token], scores: Scores, aggregation: Aggregation, labels: Sequence[str], join: Join
) -> list[dict[str, Any]]:
    """Return the entities of one text, in order; ``scores`` is (tokens, labels).

    With ``none`` each token is an entity ``{entity, score, index, word, start, end}``; otherwise adjacent tokens of one
    kind form an entity ``{entity_group, score, word, start, end}``.
    """
    if aggregation in ("none", "simple"):
        labeled = [_label(token, of_token, labels) for token, of_token in zip(tokens, scores, strict=True)]
    else:
        labeled = [_label_word(*word, aggregation, labels, join) for word in _words(tokens, scores)]
    if aggregation == "none":
        return [
            {"entity": token.label, "score": token.score, "index": token.position, "word": token.text,
             "start": token.start, "end": token.end}
            for token in labeled if token.label != OUTSIDE
        ]  # fmt: skip
    return [_entity(group, join) for group in _groups(labeled) if _kind(group[0].label)[1] != OUTSIDE]


def _label(token: Token, scores: Scores, labels: Sequence[str]) -> LabeledToken:
    best = int(scores.argmax())
    return LabeledToken(labels[best], float(scores[best]), token.text, token.start, token.end, token.position)


def _words(tokens: Sequence[Token], scores: Scores) -> Iterator[tuple[Sequence[Token], Scores]]:
    """Yield the tokens of each word, with their scores."""
    starts = [index for index, token in enumerate(tokens) if not index or not token.continues_word]
    for start, end in pairwise([*starts, len(tokens)]):
        yield tokens[start:end], scores[start:end]


def _label_word(
    tokens: Sequence[Token], scores: Scores, aggregation: Aggregation, labels: Sequence[str], join: Join
) -> LabeledToken:
    match aggregation:
        case "first":
            of_word = scores[0]
        case "max":
            of_word = scores[scores.max(1).argmax()]
        case _:
            of_word = scores.mean(0)
    word = join([token.text for token in tokens])
    return _label(Token(tokens[0].position, word, tokens[0].start, tokens[-1].end, False), of_word, labels)


def _groups(tokens: Iterable[LabeledToken]) -> Iterator[list[LabeledToken]]:
    """Yield adjacent tokens of one kind; a ``B-`` label starts a new group."""
    group: list[LabeledToken] = []
    for token in tokens:
        begins, kind = _kind(token.label)
        if group and (begins or kind != _kind(group[-1].label)[1]):
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _entity(group: Sequence[LabeledToken], join: Join) -> dict[str, Any]:
    return {
        "entity_group": group[0].label.split("-", 1)[-1],
        "score": float(np.mean([token.score for token in group], dtype=np.float32)),
        "word": join([token.text for token in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }


def _kind(label: str) -> tuple[bool, str]:
    """Return whether a label starts an entity, and its kind: ``B-PER`` and ``I-PER`` are both of kind PER."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
