"""A batch that raises is split until the failing request is alone; the other requests are only delayed."""

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
    """An error with the class name that torch uses."""


class FakeEngine:
    """Answers each request with its own data; ``check`` may raise, in `forward` or, if ``late``, in `collect`."""

    busy_s = 0.0

    def __init__(
        self, strategy: str = "packed", check: Callable[[list[Any]], None] = lambda data: None, late: bool = False
    ) -> None:
        self.info = EngineInfo("m", "embed", strategy, None, "cpu", "float32", 512)
        self.batches: list[list[Any]] = []
        self._check = check
        self._late = late

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        return [Prepared(len(str(input)), input) for input in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        data = [item.data for item in prepared]
        assert len(data) == len(batch.indices)
        assert batch.asked_tokens == sum(item.tokens for item in prepared)
        self.batches.append(data)
        if not self._late:
            self._check(data)
        return data

    def collect(self, handle: Any) -> list[Outcome]:
        if self._late:
            try:
                self._check(handle)
            except Exception as error:
                raise BatchRaised(error) from error
        return [Done(data) for data in handle]


def waiting(number: int, tokens: int = 10) -> Request:
    return prepared_request(f"{number}", tokens, number)


def raise_for(*bad: int, error: Exception | None = None) -> Callable[[list[Any]], None]:
    def check(data: list[Any]) -> None:
        if set(bad) & set(data):
            raise error or ValueError("bad input")

    return check


def outcomes(engine: FakeEngine, requests: list[Request], limits: BatchLimits = LIMITS) -> dict[str, Outcome]:
    """Return the outcome of each request by its id; assert that no request has two."""
    by_id: dict[str, Outcome] = {}
    budget = BatchBudget(limits)
    for running in run_window(engine, requests, budget):
        for request, outcome in zip(running.requests, collect_batch(running, budget), strict=True):
            assert request.id not in by_id
            by_id[request.id] = outcome
    return by_id


@given(
    st.sampled_from(sorted(PLANNERS)),
    st.lists(st.integers(1, 300), max_size=60),
    st.sets(st.integers(0, 59)),
    st.booleans(),
)
def test_every_request_has_one_outcome_and_fails_only_if_it_raises(
    strategy: str, lengths: list[int], bad: set[int], late: bool
) -> None:
    requests = [waiting(number, tokens) for number, tokens in enumerate(lengths)]
    by_id = outcomes(FakeEngine(strategy, raise_for(*bad), late), requests)
    assert set(by_id) == {f"{number}" for number in range(len(lengths))}
    for number in range(len(lengths)):
        if number in bad:
            assert isinstance(by_id[f"{number}"], Failed)
        else:
            assert by_id[f"{number}"] == Done(number)  # its own output, not a neighbour's


def test_one_failing_request_in_a_batch_fails_alone() -> None:
    by_id = outcomes(FakeEngine(check=raise_for(5)), [waiting(number) for number in range(16)])
    assert [id for id, outcome in by_id.items() if isinstance(outcome, Failed)] == ["5"]


@pytest.mark.parametrize("late", [False, True])
def test_the_failing_request_is_found_by_halving_the_batch(late: bool) -> None:
    engine = FakeEngine(check=raise_for(5), late=late)
    outcomes(engine, [waiting(number) for number in range(16)])
    assert len(engine.batches) == 9  # 16 fails; then two halves at each of 8, 4, 2 and 1


@pytest.mark.parametrize("late", [False, True])
def test_a_failure_names_the_exception_type_and_does_not_contain_the_input(late: bool) -> None:
    error = ValueError("secret text of a customer")
    by_id = outcomes(FakeEngine(check=raise_for(0, error=error), late=late), [waiting(0)])
    failed = by_id["0"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ModelFailed)
    assert failed.error.detail == "the model raised ValueError on this input"


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_request_that_exhausts_the_device_memory_alone_fails_with_out_of_memory(error: Exception) -> None:
    by_id = outcomes(FakeEngine(check=raise_for(1, error=error)), [waiting(number) for number in range(4)])
    failed = by_id["1"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutOfMemory)
    assert [id for id, outcome in by_id.items() if isinstance(outcome, Done)] == ["0", "2", "3"]


def test_a_batch_that_is_too_large_for_memory_succeeds_in_parts() -> None:
    def check(data: list[Any]) -> None:
        if len(data) > 3:
            raise OutOfMemoryError("CUDA out of memory")

    by_id = outcomes(FakeEngine(check=check), [waiting(number) for number in range(16)])
    assert by_id == {f"{number}": Done(number) for number in range(16)}


def test_no_request_fails_if_a_batch_fails_only_once() -> None:
    failures = [ValueError("transient")]

    def check(data: list[Any]) -> None:
        if failures:
            raise failures.pop()

    by_id = outcomes(FakeEngine(check=check), [waiting(number) for number in range(4)])
    assert by_id == {f"{number}": Done(number) for number in range(4)}


def test_batches_become_smaller_after_an_out_of_memory_error() -> None:
    def over(data: list[Any]) -> None:
        if len(data) * 10 > 100:
            raise OutOfMemoryError("CUDA out of memory")

    budget, engine = BatchBudget(LIMITS), FakeEngine(check=over)
    requests = [waiting(number) for number in range(16)]
    assert all(running.error is None for running in run_window(engine, requests, budget))
    assert budget.ran_out_tokens == 160
    engine.batches.clear()
    assert all(running.error is None for running in run_window(engine, requests, budget))
    assert [len(data) for data in engine.batches][:2] == [12, 6]  # 120 tokens were still too many
    assert budget.limits.max_batch_tokens == 90
    engine.batches.clear()
    list(run_window(engine, requests, budget))
    assert [len(data) for data in engine.batches] == [9, 7]


def test_other_errors_and_requests_that_fail_alone_do_not_shrink_batches() -> None:
    budget = BatchBudget(LIMITS)
    list(run_window(FakeEngine(check=raise_for(1)), [waiting(number) for number in range(4)], budget))
    large = FakeEngine(check=raise_for(1, error=MemoryError()))
    assert len(list(run_window(large, [waiting(number) for number in range(4)], budget))) == 3
    assert (budget.ran_out_tokens, budget.limits) == (None, LIMITS)


def test_each_batch_is_yielded_before_the_next_one_starts() -> None:
    engine = FakeEngine("none")
    batches = run_window(engine, [waiting(number) for number in range(3)], BatchBudget(LIMITS))
    next(batches)
    assert engine.batches == [[0]]


def test_batches_are_planned_with_the_strategy_of_the_engine() -> None:
    requests = [waiting(0, 10), waiting(1, 100), waiting(2, 10)]
    for strategy, expected in (("packed", [[0, 1, 2]]), ("none", [[0], [1], [2]]), ("bucket", [[0, 2], [1]])):
        engine = FakeEngine(strategy)
        outcomes(engine, requests)
        assert engine.batches == expected


def test_batches_are_numbered_in_the_order_of_their_start() -> None:
    numbers = [
        running.number
        for running in run_window(FakeEngine("none"), [waiting(number) for number in range(3)], BatchBudget(LIMITS))
    ]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_are_not_treated_as_failures_of_a_request(stop: type[BaseException]) -> None:
    def check(data: list[Any]) -> None:
        raise stop

    with pytest.raises(stop):
        outcomes(FakeEngine(check=check), [waiting(0), waiting(1)])
