"""Random prompts and lengths of answers for measuring text generation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Lengths of answers in tokens, lognormal.
MEAN_TOKENS, SIGMA, MOST_TOKENS = 127, 0.8, 1024
SHORTEST_PROMPT, LONGEST_PROMPT = 16, 512


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the load."""

    ids: list[int]
    tokens: int


def make_load(requests: int, vocabulary: int, scale: float = 1.0, seed: int = 0) -> list[Ask]:
    """Draw prompts of uniform length and answers of lognormal length; ``scale`` multiplies both.

    The lengths are always the same; the same ``seed`` also draws the same words.
    """
    draw, words = np.random.default_rng(0), np.random.default_rng(seed)
    mean = math.log(MEAN_TOKENS * scale) - SIGMA**2 / 2
    prompts = draw.integers(int(SHORTEST_PROMPT * scale) or 1, int(LONGEST_PROMPT * scale) + 1, requests)
    answers = np.clip(draw.lognormal(mean, SIGMA, requests), 1, MOST_TOKENS * scale).astype(int)
    return [
        Ask(words.integers(3, vocabulary, int(prompt)).tolist(), int(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
