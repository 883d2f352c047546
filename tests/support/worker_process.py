"""A real ``celery -A worker worker`` process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue

ROOT = Path(__file__).parents[2]
#: Time limit to load torch and a model on two busy cores.
START_S = 120.0


def until(what: str, is_true: Callable[[], object], limit_s: float = 60.0) -> None:
    """Wait for ``is_true``; fail with ``what`` after ``limit_s``."""
    end_s = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end_s, f"not within {limit_s:.0f} s: {what}"
        time.sleep(0.05)


class WorkerProcess:
    """A context manager that starts a worker, waits until it serves ``models``, and kills its processes at the end."""

    def __init__(
        self, url: str, config: Path, models: tuple[str, ...], concurrency: int = 1, app: str = "worker"
    ) -> None:
        self._url = url
        self._models = models
        self._log = config.parent / "worker.log"
        self._environment = os.environ | {
            "CELERY_BROKER_URL": url,
            "WINDROW_CONFIG": str(config),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._command = [
            sys.executable, "-m", "celery", "-A", app, "worker", "-n", "test@%h",
            "--concurrency", str(concurrency), "--loglevel", "INFO",
        ]  # fmt: skip

    def __enter__(self) -> WorkerProcess:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            with connect(self._url) as redis:
                queues = [RedisQueue(redis, model) for model in self._models]
                until("the worker serves its models", lambda: self._serves(queues) or self._dead())
                assert not self._dead(), self.log
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        """The output of the worker."""
        return self._log.read_text(encoding="utf-8")

    def pool(self) -> list[psutil.Process]:
        """The pool processes, which hold the models."""
        return psutil.Process(self.process.pid).children()

    def _serves(self, queues: list[RedisQueue]) -> bool:
        # Check the log as well, because Redis may still have the heartbeat of an earlier worker.
        return "serves" in self.log and all(queue.workers(within_s=30) for queue in queues)

    def _dead(self) -> bool:
        return self.process.poll() is not None
