"""What remote control asks of a model, and what of it is refused."""

from __future__ import annotations

from collections.abc import Iterator

import billiard
import pytest

from windrow.errors import InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.celery.control import read_batching
from windrow.worker.process import model_requests as orders
from windrow.worker.process.model_requests import Batching, ModelRequests, read_model_requests

ROWS = ModelSettings(task="embed", source="m")
STEPS = ModelSettings.model_validate({"task": "generate", "source": "m"})


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    orders._write(ModelRequests())


def test_orders_are_kept_beside_each_other_and_change_the_version() -> None:
    versions = [orders.version()]
    assert read_model_requests() == ModelRequests()
    for order in (
        lambda: orders.set_batching("a", Batching(8, 0.01)),
        lambda: orders.request_reload("b"),
        lambda: orders.set_batching("c", Batching(1000, None)),
        lambda: orders.set_batching("a", Batching(4, 0.0)),
        lambda: orders.request_reload("b"),
    ):
        order()
        versions.append(orders.version())
    assert read_model_requests() == ModelRequests({"a": Batching(4, 0.0), "c": Batching(1000, None)}, {"b": 2})
    assert len(set(versions)) == len(versions)


def test_a_process_started_later_reads_them() -> None:
    orders.set_batching("a", Batching(8, 0.01))
    heard = billiard.get_context("fork").SimpleQueue()
    child = billiard.get_context("fork").Process(
        target=lambda: heard.put(read_model_requests().batching["a"].max_batch_size)
    )
    child.start()
    assert heard.get() == 8
    child.join()


def test_more_than_there_is_room_for_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="the limit is"):
        orders.request_reload("m" * orders.BUFFER_BYTES)
    assert read_model_requests() == ModelRequests()


@pytest.mark.parametrize(
    ("size", "wait_ms", "expected"),
    [("8", "2.5", Batching(8, 0.0025)), (1000, 0, Batching(1000, 0.0)), ("1", "auto", Batching(1, None))],
)
def test_numbers_come_as_text_or_as_numbers(size: object, wait_ms: object, expected: Batching) -> None:
    assert read_batching(ROWS, size, wait_ms) == expected


@pytest.mark.parametrize(
    ("model", "size", "wait_ms", "says"),
    [
        (ROWS, "0", "5", r"max_batch_size: .*greater than or equal to 1 \(got '0'\)"),
        (ROWS, "1001", "5", "max_batch_size: .*less than or equal to 1000"),
        (ROWS, "many", "5", "max_batch_size: .*integer"),
        (ROWS, None, None, "max_batch_size: "),
        (ROWS, "8", "soon", "max_wait_ms: .*auto"),
        (ROWS, "8", "-1", "max_wait_ms: "),
        (STEPS, "8", "5", "are fixed when it loads"),
    ],
)
def test_what_is_no_batching_is_refused_by_name(model: ModelSettings, size: object, wait_ms: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_batching(model, size, wait_ms)
