"""Cores on a virtual clock: pieces share them, slow each other, and passes overlap as the worker's do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.lab.costs.cost import CostModel, PassCost
from windrow.lab.costs.cpu_cores import CpuCores
from windrow.lab.costs.shared_cores import Shared, pass_end_s
from windrow.lab.measure.figures import summarise
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.simulation import simulate
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.planning import BatchLimits, plan_batches

WORK = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12)
TIMES = st.lists(st.floats(0.0, 5.0), max_size=12).map(sorted)


def ends(lanes: CpuCores) -> list[float]:
    found = []
    while lanes.pieces:
        at_s = lanes.ends_s
        found += [at_s] * len(lanes.end(at_s))
    return found


def test_pieces_wait_in_line_for_the_next_lane() -> None:
    lanes = CpuCores(2)
    lanes.add(0, [3.0, 1.0, 1.0], 10.0)
    assert ends(lanes) == pytest.approx([11.0, 12.0, 13.0])
    assert lanes.ends_s == math.inf


def test_chores_take_what_is_free_and_an_equal_share_where_nothing_is() -> None:
    lanes = CpuCores(2, [0.5], 1.0)
    lanes.add(0, [2.0], 0.0)
    assert ends(lanes) == pytest.approx([2.0])
    # Three on two lanes: two thirds of the speed, until the chore has had its second.
    both = CpuCores(2, [0.5], 1.0)
    both.add(0, [2.0, 3.0], 0.0)
    assert ends(both) == pytest.approx([2.5, 3.5])


def test_chores_that_came_before_a_piece_run_beside_it() -> None:
    lanes = CpuCores(1, [0.0, 0.1, 5.0], 0.2)
    lanes.add(0, [1.0], 0.3)
    # They had 0.3 of their 0.4 s.
    assert ends(lanes) == pytest.approx([1.4])


def test_what_comes_later_puts_off_what_runs() -> None:
    lanes = CpuCores(2, [1.0], 1.0)
    lanes.add(0, [2.0], 0.0)
    assert lanes.ends_s == pytest.approx(2.0)
    lanes.add(1, [0.5], 1.0)
    assert lanes.ends_s == pytest.approx(1.75)
    assert lanes.end(lanes.ends_s) == [1]
    assert lanes.ends_s == pytest.approx(2.25)


@given(WORK, st.integers(1, 4), TIMES, st.floats(0.001, 0.3))
def test_lanes_are_never_faster_than_their_number_and_never_stand_still(
    work_s: list[float], count: int, came_s: list[float], chore_s: float
) -> None:
    lanes = CpuCores(count, came_s, chore_s)
    lanes.add(0, work_s, 0.0)
    found = ends(lanes)
    assert len(found) == len(work_s)
    assert found[-1] >= max(*work_s, sum(work_s) / count) - 1e-9
    assert found[-1] <= sum(work_s) + len(came_s) * chore_s + 1e-9


@given(WORK, st.integers(1, 4), TIMES, st.floats(0.001, 0.3))
def test_a_measured_pass_with_no_other_beside_it_ends_when_lanes_say(
    work_s: list[float], count: int, came_s: list[float], chore_s: float
) -> None:
    lanes = CpuCores(count, came_s, chore_s)
    lanes.add(0, work_s, 0.0)
    assert pass_end_s(work_s, Shared(came_s=tuple(came_s)), count, chore_s) == pytest.approx(ends(lanes)[-1])


def test_a_measured_pass_shares_the_lanes_with_those_before_and_after_it_and_with_chores() -> None:
    assert pass_end_s([1.0], Shared(busy_s=(0.5,)), 1, 0.0) == pytest.approx(1.5)
    # The second piece begins when the lane that was taken is free.
    assert pass_end_s([1.0, 1.0], Shared(busy_s=(0.25,)), 2, 0.0) == pytest.approx(1.25)
    # Three on two lanes from the start, for three quarters of a second.
    assert pass_end_s([1.0], Shared(busy_s=(1.0,), came_s=(0.0,)), 2, 0.5) == pytest.approx(1.25)
    # From when the next pass began.
    assert pass_end_s([1.0], Shared(next_s=0.25, came_s=(0.0,)), 2, 0.5) == pytest.approx(1.125)
    # Half of its chore was done before.
    assert pass_end_s([1.0], Shared(came_s=(-0.25,)), 1, 0.5) == pytest.approx(1.25)


def test_a_pass_on_cores_is_cut_as_the_worker_cuts_it() -> None:
    cost = PassCost(0.001, 1.0, lanes=2)
    (batch,) = plan_batches("packed", [10, 70, 20], BatchLimits(8, 1000))
    assert cost.pieces_s(batch, [10, 70, 20]) == pytest.approx([80.001, 20.001])
    assert cost.of_batch(batch, [10, 70, 20]) == pytest.approx(80.001)
    (batch,) = plan_batches("dynamic", [10, 70, 20, 70], BatchLimits(8, 1000))
    assert cost.pieces_s(batch, [10, 70, 20, 70]) == pytest.approx([140.001, 140.001])
    (batch,) = plan_batches("packed", [100], BatchLimits(8, 1000))
    assert cost.of_batch(batch, [100]) == pytest.approx(100.001)  # one request is not cut


def run(arrival_s: list[float], tokens: list[int], size: int = 8, chore_s: float = 0.0) -> list[tuple[float, float]]:
    cost = PassCost(0.0, 0.001, lanes=2, chore_s=chore_s)
    policy = Policy("packed", BatchLimits(size, 10_000), 0.0)
    outcome = simulate(Workload(arrival_s, tokens), policy, CostModel(cost, cost))
    assert summarise(outcome)["utilisation"][0] <= 1.0 + 1e-9
    return list(zip(outcome.start_s, outcome.end_s, strict=True))


def test_the_next_pass_starts_as_soon_as_a_core_has_nothing_to_do() -> None:
    # Two texts at once, one of them short: the third runs beside the long one, and its result is not held up.
    found = run([0.0, 0.0, 0.005], [100, 10, 200])
    assert found == [pytest.approx(span) for span in ((0.0, 0.1), (0.0, 0.1), (0.01, 0.21))]


def test_results_are_stored_in_the_order_of_the_passes() -> None:
    found = run([0.0, 0.0, 0.005], [100, 10, 20])
    assert found[2] == pytest.approx((0.01, 0.1))


def test_a_text_that_is_alone_in_its_pass_holds_up_the_next_one() -> None:
    # The worker runs it in the thread that would start the next pass; the other core is idle.
    found = run([0.0, 0.005], [100, 10])
    assert found == [pytest.approx((0.0, 0.1)), pytest.approx((0.1, 0.11))]


def test_no_more_passes_are_begun_than_wait_to_be_stored() -> None:
    # Beside the long text the others run one by one: the fourth pass waits until the first can be stored.
    found = run([0.0, 0.0, 0.001, 0.011, 0.021], [1000, 10, 10, 10, 10], size=2)
    assert [start_s for start_s, _ in found[2:]] == pytest.approx([0.01, 0.02, 1.0])


def test_what_comes_slows_a_pass_that_has_all_cores() -> None:
    found = run([0.0, 0.0, 0.03, 0.04], [100, 100, 10, 10], chore_s=0.012)
    # Two at the start and two on the way, each of which takes half of its 12 ms from either core.
    assert found[0] == pytest.approx((0.0, 0.124))
    assert run([0.0, 0.03], [100, 10], chore_s=0.012)[0] == pytest.approx((0.0, 0.1))
