"""A Celery application of the test's own process, as callers have one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery


@contextmanager
def calling(app: Celery) -> Iterator[Celery]:
    """``app``, closed with the block, and without results that outlive it.

    A result unsubscribes when it is let go of, and many are let go of only when the garbage is collected: where their
    Redis is gone by then, that takes 20 tries of a second each, in the middle of whichever test it falls into.
    """
    try:
        yield app
    finally:
        gc.collect()
        app.close()
