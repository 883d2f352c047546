"""CPU cores on a virtual clock: pieces of batches share the cores, and batches overlap as in the worker."""

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


def ends(cores: CpuCores) -> list[float]:
    result = []
    while cores.pieces:
        at_s = cores.ends_s
        result += [at_s] * len(cores.end(at_s))
    return result


def test_pieces_wait_for_the_next_free_core() -> None:
    cores = CpuCores(2)
    cores.add(0, [3.0, 1.0, 1.0], 10.0)
    assert ends(cores) == pytest.approx([11.0, 12.0, 13.0])
    assert cores.ends_s == math.inf


def test_chores_use_free_cores_or_else_get_an_equal_share() -> None:
    cores = CpuCores(2, [0.5], 1.0)
    cores.add(0, [2.0], 0.0)
    assert ends(cores) == pytest.approx([2.0])
    # Three tasks share two cores at two thirds of full speed until the chore has finished its one second of work.
    both = CpuCores(2, [0.5], 1.0)
    both.add(0, [2.0, 3.0], 0.0)
    assert ends(both) == pytest.approx([2.5, 3.5])


def test_chores_that_arrived_before_a_piece_run_concurrently_with_it() -> None:
    cores = CpuCores(1, [0.0, 0.1, 5.0], 0.2)
    cores.add(0, [1.0], 0.3)
    # They have done 0.3 of their 0.4 s of work.
    assert ends(cores) == pytest.approx([1.4])


def test_later_work_delays_a_running_piece() -> None:
    cores = CpuCores(2, [1.0], 1.0)
    cores.add(0, [2.0], 0.0)
    assert cores.ends_s == pytest.approx(2.0)
    cores.add(1, [0.5], 1.0)
    assert cores.ends_s == pytest.approx(1.75)
    assert cores.end(cores.ends_s) == [1]
    assert cores.ends_s == pytest.approx(2.25)


@given(WORK, st.integers(1, 4), TIMES, st.floats(0.001, 0.3))
def test_cores_do_at_most_one_second_of_work_per_second_and_are_never_idle(
    work_s: list[float], count: int, came_s: list[float], chore_s: float
) -> None:
    cores = CpuCores(count, came_s, chore_s)
    cores.add(0, work_s, 0.0)
    result = ends(cores)
    assert len(result) == len(work_s)
    assert result[-1] >= max(*work_s, sum(work_s) / count) - 1e-9
    assert result[-1] <= sum(work_s) + len(came_s) * chore_s + 1e-9


@given(WORK, st.integers(1, 4), TIMES, st.floats(0.001, 0.3))
def test_a_measured_batch_that_runs_alone_ends_at_the_time_that_the_cores_compute(
    work_s: list[float], count: int, came_s: list[float], chore_s: float
) -> None:
    cores = CpuCores(count, came_s, chore_s)
    cores.add(0, work_s, 0.0)
    assert pass_end_s(work_s, Shared(came_s=tuple(came_s)), count, chore_s) == pytest.approx(ends(cores)[-1])


def test_a_measured_batch_shares_the_cores_with_its_neighbors_and_with_chores() -> None:
    assert pass_end_s([1.0], Shared(busy_s=(0.5,)), 1, 0.0) == pytest.approx(1.5)
    # The second piece starts when the busy core becomes free.
    assert pass_end_s([1.0, 1.0], Shared(busy_s=(0.25,)), 2, 0.0) == pytest.approx(1.25)
    # Three tasks share two cores from the start for 0.75 s.
    assert pass_end_s([1.0], Shared(busy_s=(1.0,), came_s=(0.0,)), 2, 0.5) == pytest.approx(1.25)
    # Three tasks share two cores from the start of the next batch.
    assert pass_end_s([1.0], Shared(next_s=0.25, came_s=(0.0,)), 2, 0.5) == pytest.approx(1.125)
    # Half of the chore was already done.
    assert pass_end_s([1.0], Shared(came_s=(-0.25,)), 1, 0.5) == pytest.approx(1.25)


def test_a_batch_is_split_over_cores_as_in_the_worker() -> None:
    cost = PassCost(0.001, 1.0, lanes=2)
    (batch,) = plan_batches("packed", [10, 70, 20], BatchLimits(8, 1000))
    assert cost.pieces_s(batch, [10, 70, 20]) == pytest.approx([80.001, 20.001])
    assert cost.of_batch(batch, [10, 70, 20]) == pytest.approx(80.001)
    (batch,) = plan_batches("dynamic", [10, 70, 20, 70], BatchLimits(8, 1000))
    assert cost.pieces_s(batch, [10, 70, 20, 70]) == pytest.approx([140.001, 140.001])
    (batch,) = plan_batches("packed", [100], BatchLimits(8, 1000))
    assert cost.of_batch(batch, [100]) == pytest.approx(100.001)  # one request is not split


def run(arrival_s: list[float], tokens: list[int], size: int = 8, chore_s: float = 0.0) -> list[tuple[float, float]]:
    cost = PassCost(0.0, 0.001, lanes=2, chore_s=chore_s)
    policy = Policy("packed", BatchLimits(size, 10_000), 0.0)
    outcome = simulate(Workload(arrival_s, tokens), policy, CostModel(cost, cost))
    assert summarise(outcome)["utilisation"][0] <= 1.0 + 1e-9
    return list(zip(outcome.start_s, outcome.end_s, strict=True))


def test_the_next_batch_starts_as_soon_as_a_core_is_idle() -> None:
    # Of two texts in a batch, one is short: the third text runs next to the long one, and its result does not wait.
    result = run([0.0, 0.0, 0.005], [100, 10, 200])
    assert result == [pytest.approx(span) for span in ((0.0, 0.1), (0.0, 0.1), (0.01, 0.21))]


def test_results_are_stored_in_the_order_of_the_batches() -> None:
    result = run([0.0, 0.0, 0.005], [100, 10, 20])
    assert result[2] == pytest.approx((0.01, 0.1))


def test_a_batch_of_one_text_delays_the_next_batch() -> None:
    # The worker runs the text in the thread that starts batches, so the other core stays idle.
    result = run([0.0, 0.005], [100, 10])
    assert result == [pytest.approx((0.0, 0.1)), pytest.approx((0.1, 0.11))]


def test_a_batch_starts_only_if_few_batches_wait_to_be_stored() -> None:
    # The other texts run one after another next to the long one; the fourth batch waits until the first is stored.
    result = run([0.0, 0.0, 0.001, 0.011, 0.021], [1000, 10, 10, 10, 10], size=2)
    assert [start_s for start_s, _ in result[2:]] == pytest.approx([0.01, 0.02, 1.0])


def test_arriving_requests_slow_a_batch_that_uses_all_cores() -> None:
    result = run([0.0, 0.0, 0.03, 0.04], [100, 100, 10, 10], chore_s=0.012)
    # Two requests arrive at the start and two during the batch; each takes half of its 12 ms from each core.
    assert result[0] == pytest.approx((0.0, 0.124))
    assert run([0.0, 0.03], [100, 10], chore_s=0.012)[0] == pytest.approx((0.0, 0.1))
