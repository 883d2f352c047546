"""How many requests a process claims for a model that generates."""

import pytest

from windrow.scheduler.stepping.claiming import ClaimLimits, plan_urgent_claim

CONTINUOUS = ClaimLimits.of("continuous", 16)


@pytest.mark.parametrize(
    ("strategy", "size", "limits"),
    [
        ("none", 16, ClaimLimits(1, 1, False)),
        ("static", 16, ClaimLimits(16, 16, False)),
        ("continuous", 16, ClaimLimits(16, 2, True)),
        ("continuous", 4, ClaimLimits(4, 1, True)),
    ],
)
def test_limits_follow_from_the_strategy(strategy: str, size: int, limits: ClaimLimits) -> None:
    assert ClaimLimits.of(strategy, size) == limits


def test_free_slots_and_an_eighth_more_may_be_claimed() -> None:
    assert CONTINUOUS.room(0, []) == 16 + 2
    assert CONTINUOUS.room(10, [1, 1]) == 4 + 2
    assert CONTINUOUS.room(15, [1, 1]) == 1
    assert CONTINUOUS.room(16, [1, 1]) == 0


def test_a_request_of_many_sequences_that_cannot_all_run_next_counts_as_one_waiting_request() -> None:
    assert CONTINUOUS.room(0, [16, 16]) == 1
    assert CONTINUOUS.room(32, []) == 2


def test_a_full_process_claims_as_many_urgent_requests_as_would_run_by_preempting_others() -> None:
    assert CONTINUOUS.room_by_preemption(0, [(2, 16)]) == 16
    assert CONTINUOUS.room_by_preemption(0, [(2, 8), (0, 5), (1, 3)]) == 11
    assert CONTINUOUS.room_by_preemption(1, [(2, 8), (0, 5), (1, 3)]) == 8
    assert CONTINUOUS.room_by_preemption(2, [(2, 8)]) == 0
    assert ClaimLimits.of("static", 16).room_by_preemption(0, [(2, 16)]) == 0


def test_an_urgent_claim_names_the_priorities_that_may_preempt() -> None:
    assert plan_urgent_claim({0: 4, 1: 2}.__getitem__) == (2, ("high", "normal"))
    assert plan_urgent_claim({0: 4, 1: 0}.__getitem__) == (4, ("high",))
    assert plan_urgent_claim({0: 0, 1: 0}.__getitem__) == (0, ())
