"""Passes that raise are split until the culprit stands alone; its neighbours notice nothing but time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.worker_requests import prepared_request
from windrow.errors import ModelFailed, OutOfMemory
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import PLANNERS, Batch, BatchLimits
from windrow.scheduler.queue import Request
from windrow.worker.batches.forward import BatchBudget, collect_batch, run_window
from windrow.worker.engines.base import BatchRaised, EngineInfo, Prepared

LIMITS = BatchLimits(max_batch_size=16, max_batch_tokens=200)


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


class FakeEngine:
    """Answers each request with its own data, and raises what ``check`` raises for a pass, at the end if ``late``."""

    busy_s = 0.0

    def __init__(
        self, strategy: str = "packed", check: Callable[[list[Any]], None] = lambda data: None, late: bool = False
    ) -> None:
        self.info = EngineInfo("m", "embed", strategy, None, "cpu", "float32", 512)
        self.passes: list[list[Any]] = []
        self._check = check
        self._late = late

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        return [Prepared(len(str(one)), one) for one in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        data = [one.data for one in prepared]
        assert len(data) == len(batch.indices)
        assert batch.asked_tokens == sum(one.tokens for one in prepared)
        self.passes.append(data)
        if not self._late:
            self._check(data)
        return data

    def collect(self, handle: Any) -> list[Outcome]:
        if self._late:
            try:
                self._check(handle)
            except Exception as error:
                raise BatchRaised(error) from error
        return [Done(one) for one in handle]


def waiting(number: int, tokens: int = 10) -> Request:
    return prepared_request(f"{number}", tokens, number)


def refuse(*bad: int, error: Exception | None = None) -> Callable[[list[Any]], None]:
    def check(data: list[Any]) -> None:
        if set(bad) & set(data):
            raise error or ValueError("bad input")

    return check


def outcomes(engine: FakeEngine, row: list[Request], limits: BatchLimits = LIMITS) -> dict[str, Outcome]:
    """Request id -> how it ended; fails where one ends twice."""
    ends: dict[str, Outcome] = {}
    budget = BatchBudget(limits)
    for done in run_window(engine, row, budget):
        for one, outcome in zip(done.members, collect_batch(done, budget), strict=True):
            assert one.id not in ends
            ends[one.id] = outcome
    return ends


@given(
    st.sampled_from(sorted(PLANNERS)),
    st.lists(st.integers(1, 300), max_size=60),
    st.sets(st.integers(0, 59)),
    st.booleans(),
)
def test_every_request_ends_once_and_fails_only_where_it_is_the_culprit(
    strategy: str, lengths: list[int], bad: set[int], late: bool
) -> None:
    row = [waiting(number, tokens) for number, tokens in enumerate(lengths)]
    ends = outcomes(FakeEngine(strategy, refuse(*bad), late), row)
    assert set(ends) == {f"{number}" for number in range(len(lengths))}
    for number in range(len(lengths)):
        if number in bad:
            assert isinstance(ends[f"{number}"], Failed)
        else:
            assert ends[f"{number}"] == Done(number)  # its own output, not a neighbour's


def test_one_bad_request_among_many_fails_alone() -> None:
    ends = outcomes(FakeEngine(check=refuse(5)), [waiting(number) for number in range(16)])
    assert [id for id, outcome in ends.items() if isinstance(outcome, Failed)] == ["5"]


@pytest.mark.parametrize("late", [False, True])
def test_the_culprit_is_found_by_halving_and_not_one_by_one(late: bool) -> None:
    engine = FakeEngine(check=refuse(5), late=late)
    outcomes(engine, [waiting(number) for number in range(16)])
    assert len(engine.passes) == 9  # 16 fails; then two halves at each of 8, 4, 2 and 1


@pytest.mark.parametrize("late", [False, True])
def test_a_failure_names_the_kind_of_error_and_repeats_nothing_of_the_input(late: bool) -> None:
    error = ValueError("secret text of a customer")
    ends = outcomes(FakeEngine(check=refuse(0, error=error), late=late), [waiting(0)])
    failed = ends["0"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ModelFailed)
    assert failed.error.detail == "the model raised ValueError on this input"


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_request_that_does_not_fit_the_device_alone_is_out_of_memory(error: Exception) -> None:
    ends = outcomes(FakeEngine(check=refuse(1, error=error)), [waiting(number) for number in range(4)])
    failed = ends["1"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutOfMemory)
    assert [id for id, outcome in ends.items() if isinstance(outcome, Done)] == ["0", "2", "3"]


def test_a_pass_that_is_too_large_together_succeeds_in_parts() -> None:
    def check(data: list[Any]) -> None:
        if len(data) > 3:
            raise OutOfMemoryError("CUDA out of memory")

    ends = outcomes(FakeEngine(check=check), [waiting(number) for number in range(16)])
    assert ends == {f"{number}": Done(number) for number in range(16)}


def test_a_pass_that_fails_once_and_not_again_costs_nobody_anything() -> None:
    failures = [ValueError("a hiccup")]

    def check(data: list[Any]) -> None:
        if failures:
            raise failures.pop()

    ends = outcomes(FakeEngine(check=check), [waiting(number) for number in range(4)])
    assert ends == {f"{number}": Done(number) for number in range(4)}


def test_the_size_at_which_memory_ran_out_is_remembered() -> None:
    def over(data: list[Any]) -> None:
        if len(data) * 10 > 100:
            raise OutOfMemoryError("CUDA out of memory")

    budget, engine = BatchBudget(LIMITS), FakeEngine(check=over)
    row = [waiting(number) for number in range(16)]
    assert all(done.error is None for done in run_window(engine, row, budget))
    assert budget.ran_out_tokens == 160
    engine.passes.clear()
    assert all(done.error is None for done in run_window(engine, row, budget))
    assert [len(data) for data in engine.passes][:2] == [12, 6]  # 120 tokens was still too many
    assert budget.limits.max_batch_tokens == 90
    engine.passes.clear()
    list(run_window(engine, row, budget))
    assert [len(data) for data in engine.passes] == [9, 7]


def test_other_errors_and_inputs_that_fail_alone_do_not_make_batches_smaller() -> None:
    budget = BatchBudget(LIMITS)
    list(run_window(FakeEngine(check=refuse(1)), [waiting(number) for number in range(4)], budget))
    hog = FakeEngine(check=refuse(1, error=MemoryError()))
    assert len(list(run_window(hog, [waiting(number) for number in range(4)], budget))) == 3
    assert (budget.ran_out_tokens, budget.limits) == (None, LIMITS)


def test_each_pass_is_handed_over_before_the_next_one_starts() -> None:
    engine = FakeEngine("none")
    passes = run_window(engine, [waiting(number) for number in range(3)], BatchBudget(LIMITS))
    next(passes)
    assert engine.passes == [[0]]


def test_passes_are_planned_by_the_strategy_in_effect() -> None:
    row = [waiting(0, 10), waiting(1, 100), waiting(2, 10)]
    for strategy, expected in (("packed", [[0, 1, 2]]), ("none", [[0], [1], [2]]), ("bucket", [[0, 2], [1]])):
        engine = FakeEngine(strategy)
        outcomes(engine, row)
        assert engine.passes == expected


def test_passes_are_numbered_so_that_a_batch_can_be_named() -> None:
    numbers = [
        one.number
        for one in run_window(FakeEngine("none"), [waiting(number) for number in range(3)], BatchBudget(LIMITS))
    ]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_order_to_stop_is_obeyed_and_not_taken_for_a_bad_input(stop: type[BaseException]) -> None:
    def check(data: list[Any]) -> None:
        raise stop

    with pytest.raises(stop):
        outcomes(FakeEngine(check=check), [waiting(0), waiting(1)])
