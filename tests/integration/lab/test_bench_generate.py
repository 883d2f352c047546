"""``python -m benchmarks generate-queue`` on a small model, and the statistics of its report."""

from __future__ import annotations

import pytest

from benchmarks.generate.queue import SHARES, Served, run_generate_queue
from windrow.bench.generation_load import make_load


def make_run(steps: list[tuple[float, int]], ended_s: list[float] | None = None) -> Served:
    return Served(0.0, ended_s or [4.0], 12, [], steps)


def test_gaps_are_weighted_by_their_number_of_sequences() -> None:
    # No sequence decoded in the second step; three sequences waited 1 s, one waited 8 s.
    run = make_run([(0.0, 3), (1.0, 0), (2.0, 3), (10.0, 1)])
    assert run.gap_ms(0.5) == pytest.approx(1000)
    assert run.gap_ms(0.75) == pytest.approx(1000)
    assert run.gap_ms(0.99) == pytest.approx(8000)


def test_tokens_per_s_is_over_the_whole_run_and_requests_per_s_over_its_middle() -> None:
    run = make_run([], [float(second) for second in [*range(1, 20), 100]])
    assert run.tokens_per_s == pytest.approx(0.12)
    assert run.middle_requests_per_s() == pytest.approx(1.0)


def test_loads_have_the_same_lengths_and_different_words_for_each_seed() -> None:
    first, second = make_load(20, 100, seed=1), make_load(20, 100, seed=2)
    assert [(len(prompt.ids), prompt.tokens) for prompt in first] == [
        (len(prompt.ids), prompt.tokens) for prompt in second
    ]
    assert all(prompt.ids[:8] != other.ids[:8] for prompt, other in zip(first, second, strict=True))


def test_the_report_has_all_rates_loads_and_figures() -> None:
    progress: list[str] = []
    report = run_generate_queue(8, "small", 8, 0.05, 1, 1.0, progress.append)
    assert set(report["tokens_per_s"]) == {"direct", "queue", "streamed"}
    assert all(rate > 0 for rates in report["tokens_per_s"].values() for rate in rates)
    assert [load["share"] for load in report["loads"]] == list(SHARES)
    for load in report["loads"]:
        assert 0 < load["ttft_p50_ms"] <= load["ttft_p99_ms"]
        assert 0 < load["itl_p50_ms"] <= load["itl_p99_ms"]
    assert len(report["figures"]) == 7 + 4 * len(SHARES)
    assert progress[0] == "model loaded, checked and captured"
