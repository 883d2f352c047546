"""A Celery application in the test process, as callers have it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery


@contextmanager
def calling(app: Celery) -> Iterator[Celery]:
    """Yield ``app``, and finally close it and collect its results.

    Celery unsubscribes a result when it is garbage-collected. If its Redis has stopped by then, this takes 20 attempts
    of one second each, in the middle of another test.
    """
    try:
        yield app
    finally:
        gc.collect()
        app.close()
