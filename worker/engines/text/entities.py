"""From the scores of a text's tokens to entities, as transformers' TokenClassificationPipeline makes them.

https://huggingface.co/docs/transformers/main_classes/pipelines#transformers.TokenClassificationPipeline
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from windrow.scheduler.tasks.token_classify import Aggregation

Scores = NDArray[np.float32]
#: The label of what is nothing; entities of it are left out.
OUTSIDE = "O"


class Token(NamedTuple):
    """One token of a text that is no special one."""

    #: Among all tokens, special ones included.
    position: int
    text: str
    #: Characters of the text that was given.
    start: int
    end: int
    #: Whether it goes on with the word of the token before.
    continues: bool


class Tagged(NamedTuple):
    """A token, or the tokens of a word, with one label."""

    label: str
    score: float
    text: str
    start: int
    end: int
    position: int


@dataclass(frozen=True, slots=True)
class Labelling:
    """What a model and its tokenizer say of every text."""

    #: Label of each column of the scores.
    labels: Sequence[str]
    #: Tokens -> the text they stand for.
    join: Callable[[list[str]], str]


def find_entities(
    tokens: Sequence[Token], scores: Scores, aggregation: Aggregation, labelling: Labelling
) -> list[dict[str, Any]]:
    """Entities of one text, in order; ``scores`` is (tokens, labels).

    With ``none`` one for each token, ``{entity, score, index, word, start, end}``; else ``{entity_group, score, word,
    start, end}`` for neighbours that belong together.
    """
    if aggregation in ("none", "simple"):
        tagged = [_tag(token, of_token, labelling) for token, of_token in zip(tokens, scores, strict=True)]
    else:
        tagged = [_tag_word(*word, aggregation, labelling) for word in _words(tokens, scores)]
    if aggregation == "none":
        return [
            {"entity": one.label, "score": one.score, "index": one.position, "word": one.text, "start": one.start,
             "end": one.end}
            for one in tagged if one.label != OUTSIDE
        ]  # fmt: skip
    return [_entity(group, labelling) for group in _groups(tagged) if _kind(group[0].label)[1] != OUTSIDE]


def _tag(token: Token, scores: Scores, labelling: Labelling) -> Tagged:
    best = int(scores.argmax())
    return Tagged(labelling.labels[best], float(scores[best]), token.text, token.start, token.end, token.position)


def _words(tokens: Sequence[Token], scores: Scores) -> Iterator[tuple[Sequence[Token], Scores]]:
    """Tokens that make a word, with their scores."""
    begins = [at for at, token in enumerate(tokens) if not at or not token.continues]
    for start, end in pairwise([*begins, len(tokens)]):
        yield tokens[start:end], scores[start:end]


def _tag_word(tokens: Sequence[Token], scores: Scores, aggregation: Aggregation, labelling: Labelling) -> Tagged:
    match aggregation:
        case "first":
            of_word = scores[0]
        case "max":
            of_word = scores[scores.max(1).argmax()]
        case _:
            of_word = scores.mean(0)
    word = labelling.join([token.text for token in tokens])
    return _tag(Token(tokens[0].position, word, tokens[0].start, tokens[-1].end, False), of_word, labelling)


def _groups(tagged: Iterable[Tagged]) -> Iterator[list[Tagged]]:
    """Neighbours of one kind; one that is marked as a beginning begins another group."""
    group: list[Tagged] = []
    for one in tagged:
        begins, kind = _kind(one.label)
        if group and (begins or kind != _kind(group[-1].label)[1]):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _entity(group: Sequence[Tagged], labelling: Labelling) -> dict[str, Any]:
    return {
        "entity_group": group[0].label.split("-", 1)[-1],
        "score": float(np.mean([one.score for one in group], dtype=np.float32)),
        "word": labelling.join([one.text for one in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }


def _kind(label: str) -> tuple[bool, str]:
    """Whether a label marks the beginning of an entity, and of which kind: ``B-PER`` and ``I-PER`` are both PER."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
