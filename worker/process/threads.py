"""Threads of a worker process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from windrow.scheduler.core.exception_text import describe_exception

log = logging.getLogger(__name__)


def start_thread(target: Callable[..., None], *args: object) -> threading.Thread:
    """Start a thread whose failure ends the process: a half-dead resident would hold its device and answer nobody.

    The pool replaces the process, and the leases bring its requests back.
    """

    def stage() -> None:
        try:
            target(*args)
        except BaseException as error:
            name, said = target.__name__, describe_exception(error)
            log.critical("the %s stage failed: this process ends and the pool starts another: %s", name, said)
            os._exit(70)

    thread = threading.Thread(target=stage, name=target.__name__, daemon=True)
    thread.start()
    return thread
