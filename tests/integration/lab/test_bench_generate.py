"""``windrow bench generate-queue`` on a small model: every figure is there, and the gaps are those of the steps."""

from __future__ import annotations

import pytest

from benchmarks.generate.queue import SHARES, Served, run_generate_queue
from windrow.bench.generation_load import make_load


def served(steps: list[tuple[float, int]], ended_s: list[float] | None = None) -> Served:
    return Served(0.0, ended_s or [4.0], 12, [], steps)


def test_a_gap_counts_for_each_sequence_that_waited_for_it() -> None:
    # Nobody decoded in the second step; three waited 1 s, one waited 8 s.
    made = served([(0.0, 3), (1.0, 0), (2.0, 3), (10.0, 1)])
    assert made.gap_ms(0.5) == pytest.approx(1000)
    assert made.gap_ms(0.75) == pytest.approx(1000)
    assert made.gap_ms(0.99) == pytest.approx(8000)


def test_rates_are_of_all_and_of_the_middle() -> None:
    made = served([], [float(second) for second in [*range(1, 20), 100]])
    assert made.tokens_per_s == pytest.approx(0.12)
    assert made.middle_requests_per_s() == pytest.approx(1.0)


def test_loads_have_the_same_lengths_and_the_words_of_their_seed() -> None:
    one, other = make_load(20, 100, seed=1), make_load(20, 100, seed=2)
    assert [(len(ask.ids), ask.tokens) for ask in one] == [(len(ask.ids), ask.tokens) for ask in other]
    assert all(ask.ids[:8] != another.ids[:8] for ask, another in zip(one, other, strict=True))


def test_the_queue_and_the_loads_are_measured() -> None:
    heard: list[str] = []
    report = run_generate_queue(8, "small", 8, 0.05, 1, 1.0, heard.append)
    assert set(report["tokens_per_s"]) == {"direct", "queue", "streamed"}
    assert all(rate > 0 for rates in report["tokens_per_s"].values() for rate in rates)
    assert [load["share"] for load in report["loads"]] == list(SHARES)
    for load in report["loads"]:
        assert 0 < load["ttft_p50_ms"] <= load["ttft_p99_ms"]
        assert 0 < load["itl_p50_ms"] <= load["itl_p99_ms"]
    assert len(report["figures"]) == 7 + 4 * len(SHARES)
    assert heard[0] == "model loaded, checked and captured"
