"""The batching primitives: examples calculated by hand, and properties of continuous and static batching."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.lab import (
    Request,
    calculate_batch_metrics,
    calculate_request_latency,
    continuous_batch_simulation,
    static_batch_simulation,
)

SIMULATIONS = [static_batch_simulation, continuous_batch_simulation]
REQUESTS = st.lists(
    st.builds(
        Request,
        id=st.integers(0, 999),
        prompt_length=st.integers(0, 50),
        output_length=st.integers(0, 50),
        arrival_time=st.floats(0, 100),
    ),
    max_size=40,
)


def requests(*outputs: int, every_s: float = 0.0) -> list[Request]:
    return [Request(number, 10, tokens, number * every_s) for number, tokens in enumerate(outputs)]


def test_all_requests_of_a_static_batch_end_with_the_longest() -> None:
    completed, total_s, throughput = static_batch_simulation(requests(1, 10), 2, 0.5)
    assert [(request.start_time, request.end_time) for request in completed] == [(0.0, 5.0), (0.0, 5.0)]
    assert (total_s, throughput) == (5.0, 11 / 5)


def test_a_static_batch_waits_until_it_is_full() -> None:
    completed, total_s, _ = static_batch_simulation(requests(2, 2, every_s=3.0), 2, 1.0)
    assert [request.start_time for request in completed] == [3.0, 3.0]
    assert total_s == 5.0


def test_the_last_static_batch_waits_only_until_no_arrivals_are_left() -> None:
    completed, _, _ = static_batch_simulation(requests(1, 1, 1, every_s=2.0), 2, 1.0)
    assert [request.start_time for request in completed] == [2.0, 2.0, 4.0]


def test_a_free_slot_of_a_continuous_batch_is_filled_at_once() -> None:
    completed, total_s, throughput = continuous_batch_simulation(requests(1, 10, 4), 2, 1.0)
    assert [(request.start_time, request.end_time) for request in completed] == [(0.0, 1.0), (0.0, 10.0), (1.0, 5.0)]
    assert (total_s, throughput) == (10.0, 1.5)


def test_a_continuous_batch_starts_a_request_when_it_arrives() -> None:
    completed, _, _ = continuous_batch_simulation(requests(5, 5, every_s=2.0), 8, 1.0)
    assert [request.start_time for request in completed] == [0.0, 2.0]


@given(REQUESTS, st.integers(1, 8))
def test_continuous_is_never_slower_than_static_and_faster_if_lengths_vary_in_a_batch(
    submitted: list[Request], size: int
) -> None:
    static, static_s, static_rate = static_batch_simulation(submitted, size, 0.1)
    continuous, continuous_s, continuous_rate = continuous_batch_simulation(submitted, size, 0.1)
    almost = 1 + 1e-9
    for in_static, in_continuous in zip(static, continuous, strict=True):
        assert in_static.end_time is not None
        assert in_continuous.end_time is not None
        assert in_continuous.end_time <= in_static.end_time * almost
    assert continuous_s <= static_s * almost
    assert continuous_rate * almost >= static_rate
    batches = [static[first : first + size] for first in range(0, len(static), size)]
    if any(len({request.output_length for request in batch}) > 1 for batch in batches):
        mean = [calculate_batch_metrics(done, took_s)["avg_latency"] for done, took_s in
                ((static, static_s), (continuous, continuous_s))]  # fmt: skip
        assert mean[1] < mean[0]


#: Times are whole seconds, which floats add exactly.
WHOLE = st.builds(
    Request,
    id=st.integers(0, 999),
    prompt_length=st.just(0),
    output_length=st.integers(1, 6),
    arrival_time=st.integers(0, 12).map(float),
)


@given(st.lists(WHOLE, min_size=1, max_size=12), st.integers(1, 4))
def test_continuous_has_higher_throughput_exactly_if_the_longest_requests_of_the_last_static_batch_start_earlier(
    submitted: list[Request], size: int
) -> None:
    static, static_s, static_rate = static_batch_simulation(submitted, size, 1.0)
    continuous, continuous_s, continuous_rate = continuous_batch_simulation(submitted, size, 1.0)
    last = range((len(static) - 1) // size * size, len(static))
    most = max(static[place].output_length for place in last)
    starts = [
        (request.start_time, static[place].start_time)
        for place in last
        if (request := continuous[place]).output_length == most
    ]
    start_earlier = all(earlier is not None and later is not None and earlier < later for earlier, later in starts)
    assert (continuous_s < static_s) is (continuous_rate > static_rate) is start_earlier


def test_throughput_is_equal_if_the_last_request_arrives_late_even_if_others_end_earlier() -> None:
    submitted = [*requests(1, 5), Request(2, 0, 5, 20.0)]
    static, _, static_rate = static_batch_simulation(submitted, 2, 1.0)
    continuous, _, continuous_rate = continuous_batch_simulation(submitted, 2, 1.0)
    assert continuous_rate == static_rate
    assert continuous[0].end_time == 1.0 < static[0].end_time == 5.0


def test_continuous_has_higher_throughput_and_lower_latency_if_output_lengths_vary() -> None:
    submitted = requests(*[5, 100, 20, 60] * 8)
    static, static_s, static_rate = static_batch_simulation(submitted, 4, 0.01)
    continuous, continuous_s, continuous_rate = continuous_batch_simulation(submitted, 4, 0.01)
    assert continuous_rate > 1.5 * static_rate
    mean = calculate_batch_metrics(continuous, continuous_s)["avg_latency"]
    assert mean < 0.7 * calculate_batch_metrics(static, static_s)["avg_latency"]


@pytest.mark.parametrize("simulate", SIMULATIONS)
class TestBothSimulations:
    def test_the_requests_of_the_caller_are_not_modified(self, simulate) -> None:
        submitted = requests(3, 1, 2)
        before = copy.deepcopy(submitted)
        completed, _, _ = simulate(submitted, 2, 0.1)
        assert submitted == before
        assert completed[0] is not submitted[0]

    def test_an_empty_list_of_requests_takes_0_seconds(self, simulate) -> None:
        assert simulate([], 4, 0.1) == ([], 0.0, 0.0)

    def test_a_request_without_output_ends_when_it_starts(self, simulate) -> None:
        completed, total_s, throughput = simulate([Request(0, 5, 0, 2.0)], 1, 0.1)
        assert (completed[0].start_time, completed[0].end_time) == (2.0, 2.0)
        assert (total_s, throughput) == (2.0, 0.0)

    def test_equal_arrivals_keep_their_order(self, simulate) -> None:
        completed, _, _ = simulate(requests(1, 1, 1), 1, 1.0)
        assert [request.id for request in completed] == [0, 1, 2]
        assert [request.end_time for request in completed] == [1.0, 2.0, 3.0]

    def test_requests_are_sorted_by_arrival_time(self, simulate) -> None:
        completed, _, _ = simulate(requests(1, 1, every_s=5.0)[::-1], 1, 1.0)
        assert [request.id for request in completed] == [0, 1]

    @pytest.mark.parametrize(
        ("submitted", "size", "token_s", "message"),
        [
            (requests(1), 0, 0.1, r"batch_size is 0; it must be a whole number from 1"),
            (requests(1), 2.5, 0.1, r"batch_size is 2.5; it must be a whole number"),
            (requests(1), math.nan, 0.1, r"batch_size is nan; it must be"),
            (requests(1), 1, -0.1, r"time_per_token is -0.1; it must be seconds from 0"),
            (requests(1), 1, math.nan, r"time_per_token is nan; it must be"),
            (requests(1), 1, 1e300, r"time_per_token is 1e\+300; it must be"),
            (requests(1), 1, "1", r"time_per_token is '1'; it must be"),
            ([Request(7, 1, 1, -1.0)], 1, 0.1, r"request 7: arrival_time is -1.0; it must be seconds from 0"),
            ([Request(7, 1, 1, math.nan)], 1, 0.1, r"request 7: arrival_time is nan"),
            ([Request(7, 1, 1, math.inf)], 1, 0.1, r"request 7: arrival_time is inf"),
            ([Request(7, 1, -1, 0.0)], 1, 0.1, r"request 7: output_length is -1; it must be a whole number from 0"),
            ([Request(7, 1, math.nan, 0.0)], 1, 0.1, r"request 7: output_length is nan"),
            ([Request(7, math.inf, 1, 0.0)], 1, 0.1, r"request 7: prompt_length is inf"),
            ([Request(7, 1, 1.5, 0.0)], 1, 0.1, r"request 7: output_length is 1.5"),
        ],
    )
    def test_invalid_sizes_times_and_lengths_are_refused_by_name(
        self, simulate, submitted, size, token_s, message
    ) -> None:
        with pytest.raises(ValueError, match=message):
            simulate(submitted, size, token_s)

    def test_a_generator_of_requests_is_accepted(self, simulate) -> None:
        submitted = requests(3, 1, 2)
        assert simulate((request for request in submitted), 2, 0.1) == simulate(submitted, 2, 0.1) != ([], 0.0, 0.0)


def test_the_latency_of_a_request_is_split_into_waiting_and_processing() -> None:
    assert calculate_request_latency(Request(1, 8, 4, 1.0, start_time=3.0, end_time=5.0)) == {
        "queue_time": 2.0,
        "processing_time": 2.0,
        "total_latency": 4.0,
        "time_to_first_token": 2.5,
        "tokens_generated": 4,
    }


def test_a_request_that_has_not_finished_has_no_latency() -> None:
    with pytest.raises(ValueError, match="request 3 has not ended"):
        calculate_request_latency(Request(3, 1, 1, 0.0, start_time=1.0))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(3, 1, 1, 0.0, math.nan, 1.0), "request 3: start_time is nan; it must be seconds from 0"),
        (Request(3, 1, 1, 0.0, 0.0, math.inf), "request 3: end_time is inf"),
        (Request(3, 1, 1, math.nan, 0.0, 1.0), "request 3: arrival_time is nan"),
        (Request(3, 1, math.nan, 0.0, 0.0, 1.0), "request 3: output_length is nan"),
        (
            Request(3, 1, 1, 2.0, 1.0, 3.0),
            "starts at 1.0 and ends at 3.0; these times must be in ascending order",
        ),
        (Request(3, 1, 1, 0.0, 2.0, 1.0), "starts at 2.0 and ends at 1.0"),
    ],
)
def test_a_request_with_invalid_times_or_lengths_has_no_latency(request_: Request, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calculate_request_latency(request_)
    with pytest.raises(ValueError, match=message):
        calculate_batch_metrics([request_], 4.0)


def test_batch_metrics_accept_a_generator() -> None:
    done, took_s, _ = static_batch_simulation(requests(3, 1, 2), 2, 0.5)
    assert calculate_batch_metrics(iter(done), took_s) == calculate_batch_metrics(done, took_s)


@pytest.mark.parametrize("total_s", [-1.0, math.nan, math.inf])
def test_an_invalid_total_time_is_refused(total_s: float) -> None:
    with pytest.raises(ValueError, match=r"total_time is .*; it must be seconds"):
        calculate_batch_metrics([], total_s)


def test_batch_metrics_equal_a_calculation_by_hand() -> None:
    done = [Request(n, 1, 10, 0.0, start_time=start_s, end_time=end_s)
            for n, (start_s, end_s) in enumerate([(0.0, 1.0), (0.0, 2.0), (4.0, 5.0)])]  # fmt: skip
    metrics = calculate_batch_metrics(done, 6.0)
    assert metrics == {
        "throughput": 5.0,
        "avg_latency": pytest.approx(8 / 3),
        "p50_latency": 2.0,
        "p95_latency": pytest.approx(4.7),  # 90 % of the way from 2 to 5
        "p99_latency": pytest.approx(4.94),
        "avg_queue_time": pytest.approx(4 / 3),
        "gpu_utilization": 0.5,  # busy from 0 to 2 and from 4 to 5, of 6 seconds
    }


def test_batch_metrics_of_no_requests_are_0_and_of_one_request_are_its_own() -> None:
    assert set(calculate_batch_metrics([], 0.0).values()) == {0.0}
    single = calculate_batch_metrics([Request(0, 1, 1, 0.0, start_time=0.0, end_time=2.0)], 2.0)
    assert single["p50_latency"] == single["p99_latency"] == 2.0
