"""Threads of a pool process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from windrow.scheduler.core.exception_text import describe_exception

log = logging.getLogger(__name__)


def start_thread(target: Callable[..., None], *args: object) -> threading.Thread:
    """Start a thread whose failure ends the process.

    A process with a dead thread would occupy its device without answering. The pool replaces the process, and its
    requests are requeued when their leases expire.
    """

    def run() -> None:
        try:
            target(*args)
        except BaseException as error:
            log.critical(
                "thread %s failed; this process ends and the pool starts another: %s",
                target.__name__, describe_exception(error),
            )  # fmt: skip
            os._exit(70)

    thread = threading.Thread(target=run, name=target.__name__, daemon=True)
    thread.start()
    return thread
