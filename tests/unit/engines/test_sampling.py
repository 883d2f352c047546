"""Sampling: top-k and top-p as in transformers, reproducible noise, and the right probabilities."""

from __future__ import annotations

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from windrow.scheduler.tasks.generate import GenerateParameters
from windrow.worker.engines.generation.sampling import SamplingParameters, SlotSampling, cut, gumbel

VOCABULARY = 50


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (8, 0.5), (1, 0.1), (99, 0.9)])
def test_the_tokens_that_may_be_drawn_are_those_of_transformers(top_k: int, top_p: float) -> None:
    scores = logits(20)
    kept = torch.isfinite(cut(scores, torch.full((20,), float(top_k)), torch.full((20,), top_p)))
    right = scores
    if top_k:
        right = TopKLogitsWarper(min(top_k, VOCABULARY))(None, right)
    if top_p < 1:
        right = TopPLogitsWarper(top_p)(None, right)
    assert torch.equal(kept, torch.isfinite(right))


def test_noise_depends_on_seed_position_and_token_only() -> None:
    seeds, places = torch.tensor([1, 2, 1, (1 << 62) + 1]), torch.tensor([7, 7, 8, 7])
    together = gumbel(seeds, places, VOCABULARY)
    for row in range(4):
        assert torch.equal(together[row], gumbel(seeds[row : row + 1], places[row : row + 1], VOCABULARY)[0])
    assert all(not torch.equal(together[0], together[row]) for row in (1, 2, 3))
    assert torch.isfinite(together).all()


def test_draws_have_the_probabilities_of_the_temperature() -> None:
    parameters = GenerateParameters(temperature=0.7)
    sampling_parameters = SamplingParameters.of(parameters, 1)
    assert sampling_parameters is not None
    sampling = SlotSampling(1, VOCABULARY, [], torch.device("cpu"))
    sampling.set(0, parameters, sampling_parameters, 5, [], [])
    draws, scores = 20_000, logits(1)
    slots = torch.zeros(draws, dtype=torch.int64)
    tokens = sampling.draw(scores.expand(draws, -1), slots, torch.arange(draws), [sampling_parameters]).tokens
    expected = torch.softmax(scores[0] / 0.7, -1)
    seen = torch.bincount(tokens, minlength=VOCABULARY) / draws
    # Four standard deviations of each share.
    assert ((seen - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt() + 1e-4).all()


def test_penalties_count_only_tokens_of_the_present_request_of_a_slot() -> None:
    sampling = SlotSampling(2, VOCABULARY, [], torch.device("cpu"))
    parameters = GenerateParameters(frequency_penalty=2.0)
    sampling_parameters = SamplingParameters.of(parameters, 1)
    assert sampling_parameters is not None
    scores = torch.zeros(2, VOCABULARY)
    scores[:, 3], scores[:, 4] = 3.0, 2.0
    for slot in range(2):
        sampling.set(slot, parameters, sampling_parameters, 0, [1], [])
    both, places = torch.tensor([0, 1]), torch.tensor([1, 1])
    assert sampling.draw(scores, both, places, [sampling_parameters] * 2).tokens.tolist() == [3, 3]
    assert sampling.draw(scores, both, places, [sampling_parameters] * 2).tokens.tolist() == [4, 4]
    sampling.set(1, parameters, sampling_parameters, 0, [1], [])
    assert sampling.draw(scores, both, places, [sampling_parameters] * 2).tokens.tolist() == [3, 3]
    assert sampling.draw(scores[:1], both[:1], places[:1], [sampling_parameters]).tokens.tolist() == [0]


def test_greedy_rows_need_no_sampling() -> None:
    assert (
        SamplingParameters.of(GenerateParameters(max_tokens=5, stop=("x",), ignore_eos=True, min_tokens=3), 1) is None
    )


def test_a_row_with_nan_gets_the_token_minus_one() -> None:
    sampling = SlotSampling(2, VOCABULARY, [], torch.device("cpu"))
    parameters = GenerateParameters(temperature=1.0)
    sampling_parameters = SamplingParameters.of(parameters, 1)
    assert sampling_parameters is not None
    for slot in range(2):
        sampling.set(slot, parameters, sampling_parameters, 0, [], [])
    scores = logits(2)
    scores[0, 7] = torch.nan
    drawn = sampling.draw(scores, torch.tensor([0, 1]), torch.tensor([1, 1]), [sampling_parameters] * 2)
    assert drawn.tokens[0] == -1
    assert 0 <= drawn.tokens[1] < VOCABULARY
