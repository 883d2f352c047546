"""What the garbage collector has to look at in a process that holds models."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from windrow.worker.process.garbage_collector import freeze_loaded_objects


class Model:
    """Refers to itself, as modules do."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thaw() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.freeze()  # as `tests.conftest` had it


def test_what_was_loaded_is_looked_at_no_more() -> None:
    model = Model()
    freeze_loaded_objects()
    assert not any(one is model for one in gc.get_objects())
    assert gc.get_freeze_count() > 0


def test_what_was_spared_and_is_left_over_goes_at_the_next_call() -> None:
    model = Model()
    freeze_loaded_objects()
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is not None
    freeze_loaded_objects()
    assert seen() is None
