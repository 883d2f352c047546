"""Weighted fair queueing: order within a flow, shares between flows, and no starvation."""

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, estimate_cost_tokens, finish_tag, flow_name

COSTS = st.lists(st.integers(0, 1000), min_size=1, max_size=100)
WEIGHTS = st.sampled_from(sorted(PRIORITY_WEIGHTS.values()))


class TagQueue:
    """A queue ordered by finish tags, as submit and claim implement it, without Redis."""

    def __init__(self) -> None:
        self.virtual_time = 0.0
        self._last: dict[str, float] = {}
        self._waiting: list[tuple[float, int, str]] = []
        self._arrivals = 0

    def submit(self, flow: str, weight: float, cost_tokens: int = 1) -> int:
        tag = finish_tag(self.virtual_time, self._last.get(flow), cost_tokens, weight)
        self._last[flow] = tag
        self._arrivals += 1
        heapq.heappush(self._waiting, (tag, self._arrivals, flow))
        return self._arrivals

    def serve(self) -> tuple[int, str]:
        self.virtual_time, arrival, flow = heapq.heappop(self._waiting)
        return arrival, flow

    def __len__(self) -> int:
        return len(self._waiting)


@given(COSTS, WEIGHTS, st.floats(0, 1e9))
def test_the_tags_of_a_flow_increase_in_arrival_order(costs: list[int], weight: float, virtual_time: float) -> None:
    last = None
    for cost in costs:
        tag = finish_tag(virtual_time, last, cost, weight)
        assert tag > (virtual_time if last is None else last)
        last = tag


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500), st.booleans()), max_size=200))
def test_each_flow_is_served_first_in_first_out(steps: list[tuple[str, int, bool]]) -> None:
    queue, served = TagQueue(), []
    weights = dict(zip("abc", PRIORITY_WEIGHTS.values(), strict=True))
    for flow, cost, also_serve in steps:
        queue.submit(flow, weights[flow], cost)
        if also_serve:
            served.append(queue.serve())
    while len(queue):
        served.append(queue.serve())
    for flow in "abc":
        arrivals = [arrival for arrival, name in served if name == flow]
        assert arrivals == sorted(arrivals)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500), st.booleans()), max_size=200))
def test_virtual_time_never_decreases(steps: list[tuple[str, int, bool]]) -> None:
    queue, before = TagQueue(), 0.0
    for flow, cost, also_serve in steps:
        queue.submit(flow, 4.0, cost)
        if also_serve:
            queue.serve()
            assert queue.virtual_time >= before
            before = queue.virtual_time


def test_three_backlogged_priorities_share_the_device_by_their_weights() -> None:
    queue = TagQueue()
    for priority, weight in PRIORITY_WEIGHTS.items():
        for _ in range(2000):
            queue.submit(priority, weight)
    served = Counter(queue.serve()[1] for _ in range(2100))
    assert served["high"] == pytest.approx(1600, abs=2)  # 2,100 * 16 / 21
    assert served["normal"] == pytest.approx(400, abs=2)  # 2,100 * 4 / 21
    assert served["low"] == pytest.approx(100, abs=2)  # 2,100 * 1 / 21


def test_a_flow_of_large_requests_gets_the_same_tokens_as_one_of_small_ones() -> None:
    queue = TagQueue()
    for _ in range(1000):
        queue.submit("large", 4.0, cost_tokens=10)
        queue.submit("small", 4.0, cost_tokens=1)
    served = Counter(queue.serve()[1] for _ in range(550))
    assert served == {"large": pytest.approx(50, abs=1), "small": pytest.approx(500, abs=1)}


@given(st.integers(0, 200), st.integers(1, 100), st.integers(1, 100))
def test_under_a_flood_of_high_priority_a_low_priority_request_waits_for_a_bounded_number_of_requests(
    already_served: int, low_cost: int, high_cost: int
) -> None:
    queue = TagQueue()
    for _ in range(already_served + 1):
        queue.submit("high", 16.0, high_cost)
    for _ in range(already_served):
        queue.serve()
    low = queue.submit("low", 1.0, low_cost)
    before = 0
    while True:
        queue.submit("high", 16.0, high_cost)  # the flood never ends
        if queue.serve()[0] == low:
            break
        before += 1
    assert before <= 16 * low_cost / high_cost + 1


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.integers(0, 1000), WEIGHTS)
def test_an_idle_flow_accumulates_no_credit(virtual_time: float, behind: float, cost: int, weight: float) -> None:
    long_ago = max(0.0, virtual_time - behind)
    assert finish_tag(virtual_time, long_ago, cost, weight) == finish_tag(virtual_time, None, cost, weight)


def test_a_request_without_cost_is_charged_one_token() -> None:
    assert finish_tag(0.0, None, 0, 4.0) == finish_tag(0.0, None, 1, 4.0) == 0.25


def test_a_higher_priority_has_a_higher_weight() -> None:
    assert PRIORITY_WEIGHTS["high"] > PRIORITY_WEIGHTS["normal"] > PRIORITY_WEIGHTS["low"] > 0


def test_a_flow_name_consists_of_tenant_and_priority() -> None:
    assert flow_name("acme", "low") == "acme:low"


@pytest.mark.parametrize(("characters", "tokens"), [(0, 1), (1, 1), (4, 1), (5, 2), (400, 100)])
def test_four_characters_are_charged_as_one_token(characters: int, tokens: int) -> None:
    assert estimate_cost_tokens(characters) == tokens
