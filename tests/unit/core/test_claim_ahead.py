"""The time of the next claim: late enough to include urgent requests, early enough to keep the device busy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.claim_ahead import MARGIN_S, Pace

SECONDS = st.floats(0, 100)


def learned(runs: int = 50, cost: int = 1000, seconds: float = 0.1, prepare_s: float = 0.002) -> Pace:
    pace = Pace()
    for _ in range(runs):
        pace = pace.observe_run(cost, seconds).observe_preparation(prepare_s)
    return pace


def test_no_claim_is_delayed_before_the_first_run_has_ended() -> None:
    assert Pace().claim_after_s(1000, 0.0) == 0.0
    assert Pace().observe_preparation(1.0).claim_after_s(1000, 1.0) == 0.0


def test_the_next_claim_is_due_shortly_before_the_run_ends() -> None:
    assert learned().claim_after_s(1000, 0.002) == pytest.approx(0.1 - 2 * 0.002 - MARGIN_S)
    assert learned().claim_after_s(1000, 0.010) == pytest.approx(0.1 - 2 * 0.010 - MARGIN_S)
    assert learned().claim_after_s(1000, 0.2) == 0.0


def test_the_expected_run_time_grows_with_cost_if_past_run_times_did() -> None:
    pace = Pace()
    for number in range(100):
        cost = 1000 if number % 2 else 3000
        pace = pace.observe_run(cost, cost * 1e-4)
    assert pace.claim_after_s(2000, 0.0) == pytest.approx(0.2 - MARGIN_S)


def test_the_expected_run_time_is_constant_if_past_run_times_did_not_depend_on_cost() -> None:
    pace = Pace()
    for number in range(100):
        pace = pace.observe_run(1 if number % 2 else 64, 0.1)
    assert pace.claim_after_s(64, 0.0) == pytest.approx(0.1 - MARGIN_S)


def test_runs_of_varying_length_make_claims_earlier() -> None:
    pace = learned()
    for number in range(50):
        pace = pace.observe_run(1000, 0.08 if number % 2 else 0.12)
    assert pace.claim_after_s(1000, 0.002) < 0.07


def test_short_runs_do_not_delay_claims() -> None:
    assert learned(seconds=0.015).claim_after_s(1000, 0.002) == 0.0


def test_runs_are_short_if_the_next_requests_may_not_be_ready_in_time() -> None:
    assert learned(seconds=0.015).is_short
    assert not learned(seconds=0.025, prepare_s=0.002).is_short
    assert learned(seconds=0.025, prepare_s=0.012).is_short


@given(
    st.lists(st.tuples(st.integers(0, 10_000), SECONDS, SECONDS), max_size=20), st.integers(0, 10_000), st.floats(0, 10)
)
def test_a_claim_is_due_before_the_expected_end(
    runs: list[tuple[int, float, float]], cost: int, prepare_s: float
) -> None:
    pace = Pace()
    for run_cost, seconds, prepared_s in runs:
        pace = pace.observe_run(run_cost, seconds).observe_preparation(prepared_s)
    due_s = pace.claim_after_s(cost, prepare_s)
    assert due_s >= 0
    if pace.run_s is not None and due_s:
        assert due_s < max(pace.run_s, cost * pace.cost_s)
