"""Points in a worker's code at which it can be blocked once, to be killed exactly there.

The harness and the worker communicate through two files, ``armed`` and ``reached``.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

#: Environment variable with the folder of the files, which the harness sets for its workers.
FOLDER_VARIABLE = "FAULTS_FOLDER"
#: In the order in which a request reaches them.
STOP_POINTS = ("after_claim", "before_forward", "after_forward", "before_finish", "after_finish")
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Reached:
    """A worker that is blocked at a stop point."""

    #: The pool process and its Celery parent process.
    pid: int
    parent_pid: int


class StopPoints:
    """The harness's side of the protocol."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._armed, self._reached = folder / "armed", folder / "reached"

    def arm(self, point: str, skip: int = 0) -> None:
        """Block the first worker that reaches ``point``, after ``skip`` workers have passed it."""
        assert point in STOP_POINTS, point
        _write(self._armed, f"{point} {skip}")

    def reached(self) -> Reached | None:
        """Return the blocked worker, or None."""
        try:
            return Reached(*map(int, self._reached.read_text().split()))
        except FileNotFoundError:
            return None

    def release(self) -> None:
        """Let the blocked worker continue, and disarm the stop point."""
        self._armed.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)


def stop_at(point: str) -> None:
    """Block the calling worker if ``point`` is armed and no other worker is blocked there."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    armed = folder / "armed"
    try:
        name, skip = armed.read_text().split()
        if name != point:
            return
        if int(skip) > 0:
            _write(armed, f"{name} {int(skip) - 1}")
            return
        armed.rename(folder / f"taken-{os.getpid()}")
    except FileNotFoundError:  # no point is armed, or another worker was first
        return
    reached = folder / "reached"
    _write(reached, f"{os.getpid()} {os.getppid()}")
    while reached.exists():
        time.sleep(POLL_S)


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    draft.rename(path)
