"""Remote control requests for a model: stored for the pool processes, or refused if invalid."""

from __future__ import annotations

from collections.abc import Iterator

import billiard
import pytest

from windrow.errors import InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.celery.control import read_batching
from windrow.worker.process import model_requests
from windrow.worker.process.model_requests import Batching, ModelRequests, read_model_requests

BATCH_MODEL = ModelSettings(task="embed", source="m")
STEP_MODEL = ModelSettings.model_validate({"task": "generate", "source": "m"})


@pytest.fixture(autouse=True)
def reset_model_requests() -> Iterator[None]:
    yield
    model_requests._write(ModelRequests())


def test_each_request_is_stored_with_the_earlier_ones_and_changes_the_version() -> None:
    versions = [model_requests.version()]
    assert read_model_requests() == ModelRequests()
    for change in (
        lambda: model_requests.set_batching("a", Batching(8, 0.01)),
        lambda: model_requests.request_reload("b"),
        lambda: model_requests.set_batching("c", Batching(1000, None)),
        lambda: model_requests.set_batching("a", Batching(4, 0.0)),
        lambda: model_requests.request_reload("b"),
    ):
        change()
        versions.append(model_requests.version())
    assert read_model_requests() == ModelRequests({"a": Batching(4, 0.0), "c": Batching(1000, None)}, {"b": 2})
    assert len(set(versions)) == len(versions)


def test_a_process_that_starts_later_reads_the_requests() -> None:
    model_requests.set_batching("a", Batching(8, 0.01))
    received = billiard.get_context("fork").SimpleQueue()
    child = billiard.get_context("fork").Process(
        target=lambda: received.put(read_model_requests().batching["a"].max_batch_size)
    )
    child.start()
    assert received.get() == 8
    child.join()


def test_a_request_that_exceeds_the_buffer_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="the limit is"):
        model_requests.request_reload("m" * model_requests.BUFFER_BYTES)
    assert read_model_requests() == ModelRequests()


@pytest.mark.parametrize(
    ("size", "wait_ms", "expected"),
    [("8", "2.5", Batching(8, 0.0025)), (1000, 0, Batching(1000, 0.0)), ("1", "auto", Batching(1, None))],
)
def test_batch_limits_are_accepted_as_text_or_as_numbers(size: object, wait_ms: object, expected: Batching) -> None:
    assert read_batching(BATCH_MODEL, size, wait_ms) == expected


@pytest.mark.parametrize(
    ("model", "size", "wait_ms", "message"),
    [
        (BATCH_MODEL, "0", "5", r"max_batch_size: .*greater than or equal to 1 \(got '0'\)"),
        (BATCH_MODEL, "1001", "5", "max_batch_size: .*less than or equal to 1000"),
        (BATCH_MODEL, "many", "5", "max_batch_size: .*integer"),
        (BATCH_MODEL, None, None, "max_batch_size: "),
        (BATCH_MODEL, "8", "soon", "max_wait_ms: .*auto"),
        (BATCH_MODEL, "8", "-1", "max_wait_ms: "),
        (STEP_MODEL, "8", "5", "are fixed when it loads"),
    ],
)
def test_invalid_batch_limits_are_refused_by_name(
    model: ModelSettings, size: object, wait_ms: object, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_batching(model, size, wait_ms)
