"""Observations are counted in buckets, one by one or a batch at once, and summed in Redis."""

from __future__ import annotations

from collections import Counter

import fakeredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windrow.scheduler.queue.metrics import BUCKETS
from windrow.scheduler.queue.observations import Observations, read_observations, store_observations

VALUES = st.one_of(st.floats(-1.0, 1e6), st.sampled_from([bound for bounds in BUCKETS.values() for bound in bounds]))


@given(name=st.sampled_from(sorted(BUCKETS)), values=st.lists(VALUES, min_size=1, max_size=50))
@example(name="queue", values=[0.001, 0.0011, 300.0, 301.0])
def test_a_batch_at_once_is_counted_like_its_values_one_by_one(name: str, values: list[float]) -> None:
    at_once, one_by_one = Observations(), Observations()
    at_once.observe_each(name, values)
    for value in values:
        one_by_one.observe(name, value)
    counts, expected = at_once.take_out(), one_by_one.take_out()
    sums = counts.pop(f"{name}:us"), expected.pop(f"{name}:us")
    assert counts == +expected
    if min(values) >= 0:
        assert sums[0] == pytest.approx(sums[1], abs=len(values))


def test_a_negative_duration_does_not_decrease_the_sum() -> None:
    observed = Observations()
    observed.observe_each("queue", [-5.0, 1.0])
    observed.observe("compute", -5.0)
    assert observed.take_out() == Counter({"queue:0": 1, "queue:9": 1, "queue:us": 0, "compute:0": 1, "compute:us": 0})


def test_observations_of_several_processes_are_summed() -> None:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    for size, closed_by in ((3, "wait"), (8, "size"), (10_000, "wait")):
        observed = Observations()
        observed.observe("batch_size", size)
        observed.observe("padding_ratio", 0.25)
        observed.count_batch(closed_by)
        observed.count_tokens("prompt", 100 * size)
        observed.count_preemptions(2)
        store_observations(redis, "m", observed.take_out())
        assert not observed.take_out()
    found = read_observations(redis, "m")
    assert found.batches == {"size": 1, "tokens": 0, "wait": 2, "idle": 0}
    assert found.tokens == {"prompt": 1_001_100, "cached": 0, "completion": 0}
    assert found.preemptions == 6
    sizes, padding = found.histograms["batch_size"], found.histograms["padding_ratio"]
    assert dict(zip((*sizes.bounds, None), sizes.counts, strict=True)) == dict.fromkeys(sizes.bounds, 0) | {
        4.0: 1, 8.0: 1, None: 1
    }  # fmt: skip
    assert sizes.sum == 10_011
    assert padding.sum == 0.75


def test_observations_that_could_not_be_stored_are_kept() -> None:
    observed = Observations()
    observed.observe("batch_size", 2)
    counts = observed.take_out()
    observed.observe("batch_size", 2)
    observed.put_back(counts)
    assert observed.take_out() == {"batch_size:1": 2, "batch_size:us": 4_000_000}
