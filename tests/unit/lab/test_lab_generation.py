"""Simulated generation agrees with the primitives if both apply, and generates every token exactly once."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windrow.lab import Request, continuous_batch_simulation, static_batch_simulation
from windrow.lab.costs.cost import DecodeCost, StepRuns
from windrow.lab.measure.figures import summarise
from windrow.lab.simulate.generation import GENERATION, GenerationPolicy, StepDevice, simulate_generation
from windrow.lab.simulate.outcome import Failure, Fleet
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.batch_scheduler import ClaimUpTo
from windrow.scheduler.core.window import Wait

STEP = DecodeCost(step_s=1.0, token_s=0.0)
OUTPUTS = st.lists(st.integers(1, 20), min_size=1, max_size=40)


def policy(name: str, size: int = 4, cache_tokens: int = 100_000) -> GenerationPolicy:
    return GenerationPolicy(name, size, 100_000, cache_tokens)


def arriving_at_once(outputs: list[int]) -> Workload:
    return Workload([0.0] * len(outputs), [5] * len(outputs), outputs)


@settings(deadline=None)
@given(OUTPUTS, st.integers(1, 6))
def test_with_steps_of_equal_cost_the_result_equals_that_of_the_primitives(outputs: list[int], size: int) -> None:
    requests = [Request(number, 5, tokens, 0.0) for number, tokens in enumerate(outputs)]
    for name, simulation in (("static", static_batch_simulation), ("continuous", continuous_batch_simulation)):
        outcome = simulate_generation(arriving_at_once(outputs), policy(name, size), STEP)
        completed, total_s, _ = simulation(requests, size, 1.0)
        assert max(outcome.end_s) == total_s
        assert outcome.end_s == [request.end_time for request in completed]
        assert outcome.start_s == [request.start_time for request in completed]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=30),
    st.sampled_from(sorted(GENERATION)), st.integers(1, 5), st.integers(96, 400), st.booleans(), st.integers(0, 1),
)  # fmt: skip
def test_every_request_generates_all_its_tokens_once_even_with_a_small_cache(
    drawn: list[tuple[float, int, int]], name: str, size: int, cache_tokens: int, dies: bool, ahead: int
) -> None:
    drawn.sort()
    workload = Workload(
        [request[0] for request in drawn], [request[1] for request in drawn], [request[2] for request in drawn]
    )
    fleet = Fleet(2, (Failure(7.3, 0, 2.0),) if dies else (), lease_s=5.0)
    cost = DecodeCost(0.1, 0.001, 0.002, 1e-5, 0.05, StepRuns(ahead, (2, 4)))
    outcome = simulate_generation(workload, policy(name, size, cache_tokens), cost, fleet)
    assert set(Counter(request for step in outcome.batches for request in step.requests).values()) == {1}
    assert not np.isnan(outcome.end_s).any()
    for arrival_s, start_s, first_s, end_s, tokens in zip(
        workload.arrival_s, outcome.start_s, outcome.first_s, outcome.end_s, workload.output_tokens, strict=True
    ):
        assert arrival_s <= start_s < first_s <= end_s
        assert end_s - first_s >= 0.1 * (tokens - 1) - 1e-9  # each further token takes a step


def test_the_cache_is_empty_after_all_requests_have_finished() -> None:
    for name in GENERATION:
        workload = arriving_at_once([3, 9, 1, 14, 6, 2])
        device = StepDevice(0, policy(name, 3, 96), DecodeCost(1.0, 0.0), workload)
        device.end_claim(range(6) if name in ("continuous", "chunked") else [0], 0.0)
        while device.waiting:
            device.start(0.0)
            device.end(0.0)
        assert device.cached.tokens == 0


def test_a_device_claims_while_a_step_runs_as_a_worker_does() -> None:
    workload = arriving_at_once([3] * 20)
    device = StepDevice(0, policy("continuous", 16), DecodeCost(1.0, 0.0), workload)
    assert device.plan_claim(0.0) == ClaimUpTo(16 + 2, 1)
    device.end_claim(range(16), 0.0)
    device.start(0.0)
    assert device.plan_claim(0.0) == ClaimUpTo(2, 1)
    device.end_claim([16, 17], 0.5)
    assert device.plan_claim(0.0) == Wait(math.inf)


def test_continuous_has_higher_throughput_and_lower_latency_than_static_and_no_padding() -> None:
    numbers = np.random.default_rng(2)
    count = 300
    arrival_s = np.sort(numbers.random(count) * 20).tolist()
    workload = Workload(arrival_s, [20] * count, numbers.integers(1, 60, count).tolist())
    cost = DecodeCost(0.02, 0.0005)
    static, continuous = (
        summarise(simulate_generation(workload, policy(name, 8), cost)) for name in ("static", "continuous")
    )
    assert continuous["tokens_per_s"] > 1.3 * static["tokens_per_s"]
    assert continuous["latency_ms"]["mean"] < 0.5 * static["latency_ms"]["mean"]
    assert continuous["padding_ratio"] == 0 < static["padding_ratio"]


def test_chunked_prefill_keeps_the_time_between_tokens_short_during_long_prompts() -> None:
    workload = Workload([0.0, 1.0, 2.0], [10, 8000, 8000], [100, 5, 5])
    cost = DecodeCost(0.02, 0.0001)
    whole, chunked = (
        summarise(simulate_generation(workload, policy(name), cost)) for name in ("continuous", "chunked")
    )
    assert chunked["itl_ms"]["max"] < 0.2 * whole["itl_ms"]["max"]
    assert chunked["latency_ms"]["max"] > 0


def test_the_figures_of_one_request_equal_a_calculation_by_hand() -> None:
    cost = DecodeCost(0.010, 0.001, cache_token_s=0.0001)
    report = summarise(simulate_generation(Workload([0.0], [10], [3]), policy("continuous"), cost), 0.022, 0.0124)
    # Prefill of 10 tokens: 10 + 10 + 1 ms. Tokens with 11 and 12 cached tokens: 10 + 1 + 1.1 and 10 + 1 + 1.2 ms.
    assert report["ttft_ms"]["max"] == pytest.approx(21.0)
    assert report["itl_ms"]["max"] == pytest.approx(12.2)
    assert report["latency_ms"]["max"] == pytest.approx(45.3)
    assert report["tokens_per_s"] == pytest.approx(3 / 0.0453)
    assert report["within_slo"] == 1.0
    late = summarise(simulate_generation(Workload([0.0], [10], [3]), policy("continuous"), cost), 0.020)
    assert late["within_slo"] == 0.0


def test_a_request_that_arrives_during_a_step_joins_the_next_step_that_is_not_planned_yet() -> None:
    workload = Workload([0.0, 0.5], [10, 10], [6, 2])
    for ahead, first_s in ((0, 2.0), (1, 3.0)):
        outcome = simulate_generation(workload, policy("continuous"), DecodeCost(1.0, 0.0, runs=StepRuns(ahead)))
        assert outcome.first_s == [1.0, first_s]
        assert outcome.end_s == [6.0, first_s + 1.0]


def test_the_handover_and_prefill_passes_add_to_the_latency() -> None:
    outcome = simulate_generation(
        Workload([0.0], [10], [2]), policy("continuous"), DecodeCost(1.0, 0.0, read_s=0.5), handover_s=0.25
    )
    assert (outcome.start_s, outcome.first_s, outcome.end_s) == ([0.25], [1.75], [2.75])


def test_steps_have_the_cost_of_their_captured_sizes() -> None:
    cost = DecodeCost(0.0, 0.01, runs=StepRuns(0, (4,), (16, 32)))
    outcome = simulate_generation(Workload([0.0], [20], [2]), policy("continuous"), cost)
    assert (outcome.first_s, outcome.end_s) == ([0.32], [pytest.approx(0.36)])
    assert [step.asked_tokens for step in outcome.batches] == [20, 1]


def test_an_invalid_generation_workload_is_refused() -> None:
    with pytest.raises(ValueError, match="request 2 has 90 prompt and 20 output tokens; the cache holds 96"):
        simulate_generation(Workload([0.0, 0.0], [5, 90], [5, 20]), policy("continuous", 2, 96), STEP)
    with pytest.raises(ValueError, match="the workload has no output tokens"):
        simulate_generation(Workload([0.0], [5]), policy("continuous"), STEP)
    with pytest.raises(ValueError, match="unknown policy 'best'; accepted are none, static, continuous, chunked"):
        policy("best")
