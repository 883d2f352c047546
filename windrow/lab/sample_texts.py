"""Sample texts, the same on every run: ten short ones, and any number of nonsense texts of mixed lengths."""

from __future__ import annotations

import random
from importlib.resources import files

#: Sent by the ten clients of the demonstration's first scene.
SHORT_TEXTS = (
    "The hay is dry enough to rake.",
    "When does the next train to the coast leave?",
    "A violin teacher moved into the flat above ours, and now the whole house practises scales.",
    "Please cancel my order from Tuesday.",
    "Rain from the west until noon, then clearing.",
    "Which of these two contracts has the shorter notice period?",
    "The pump makes a grinding noise when it starts cold, but not once it has run for a minute or two.",
    "Two eggs, a cup of flour, a little milk.",
    "My parcel says delivered, and nothing is at the door.",
    "Night buses run every half hour at weekends.",
)

WORDS = tuple((files("windrow.lab") / "words.txt").read_text(encoding="utf-8").split())
FEWEST_WORDS, MOST_WORDS = 3, 400
#: Parameters of the lognormal distribution of lengths: a median of 33 words, and one text in twenty above 145.
LOG_MEAN, LOG_SIGMA = 3.5, 0.9


def mixed_texts(count: int, seed: int = 20, log_mean: float = LOG_MEAN) -> list[str]:
    """Return ``count`` texts of 3 to 400 words with lognormal lengths: many short, a few long."""
    numbers = random.Random(seed)
    lengths = (round(numbers.lognormvariate(log_mean, LOG_SIGMA)) for _ in range(count))
    return [
        " ".join(numbers.choices(WORDS, k=min(MOST_WORDS, max(FEWEST_WORDS, length)))).capitalize() + "."
        for length in lengths
    ]
