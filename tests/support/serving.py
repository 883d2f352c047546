"""``windrow serve`` as a real process in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from windrow.stack.embedded_redis import free_port

ROOT = Path(__file__).parents[2]
#: Loading torch and a model on two busy cores; draining every program.
START_S, STOP_S = 150.0, 60.0


def clean_environ(**more: str) -> dict[str, str]:
    """This process's environment without Windrow's settings, with the repository importable from any folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WINDROW_") and name not in ("CELERY_BROKER_URL", "PORT")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **more}


def is_alive(process: psutil.Process) -> bool:
    """Whether ``process`` still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(what: str, is_true: Callable[[], bool], limit_s: float) -> None:
    """Poll ``is_true``; fail with ``what`` after ``limit_s``."""
    end_s = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end_s, what
        time.sleep(0.1)


class Serving:
    """A ``windrow serve`` process in ``folder``, and every process that it has started."""

    def __init__(self, folder: Path, python: str = sys.executable, **environ: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [python, "-m", "windrow", "serve", "--json"],
            cwd=folder,
            env=clean_environ(PORT=str(free_port()), **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.descendants: set[psutil.Process] = set()
        self.url = ""
        #: Models that it reported as served.
        self.models: list[str] = []

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        report = json.loads(line)
        self.url, self.models = report["url"], report["models"]
        self.note_descendants()

    def note_descendants(self) -> None:
        self.descendants |= set(psutil.Process(self.process.pid).children(recursive=True))

    def program(self, name: str) -> psutil.Process:
        """The first process of a program, recognised by its command line."""
        words = {"redis": "redis-server", "api": "gunicorn", "worker": "worker@", "housekeeping": "housekeeping@"}
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if any(words[name] in word for word in child.cmdline()))

    def assert_no_process_is_left(self) -> None:
        wait_for("processes are left", lambda: not any(map(is_alive, self.descendants)), STOP_S)

    def close(self) -> None:
        for process in self.descendants:
            if is_alive(process):
                process.kill()
        self.process.kill()
        self.process.communicate()


def run_serve(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a ``windrow serve`` that is expected to exit by itself."""
    command = [sys.executable, "-m", "windrow", "serve"]
    environment = clean_environ(**environ)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
