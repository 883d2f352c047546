"""Freeze loaded models so that the garbage collector does not traverse them."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from windrow.worker.process.garbage_collector import freeze_loaded_objects


class Model:
    """An object with a reference cycle, as torch modules have."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thaw() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.freeze()  # restore the state that `tests.conftest` sets


def test_loaded_objects_are_not_traversed_by_later_collections() -> None:
    model = Model()
    freeze_loaded_objects()
    assert not any(tracked is model for tracked in gc.get_objects())
    assert gc.get_freeze_count() > 0


def test_a_frozen_object_that_became_garbage_is_freed_by_the_next_freeze() -> None:
    model = Model()
    freeze_loaded_objects()
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is not None
    freeze_loaded_objects()
    assert reference() is None
