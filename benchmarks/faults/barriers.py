"""Places where a worker stops dead, once, so that it can be killed exactly there. Two files are the whole protocol."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

#: The folder of the files; set by the harness for the workers that it starts.
FOLDER_VARIABLE = "FAULTS_FOLDER"
#: In the order in which a request comes by.
BARRIERS = ("after_claim", "before_forward", "after_forward", "before_finish", "after_finish")
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Reached:
    """Who stands at a barrier."""

    #: The pool process, and the Celery parent that it belongs to.
    pid: int
    parent_pid: int


class Barriers:
    """The harness's side."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._armed, self._reached = folder / "armed", folder / "reached"

    def arm(self, barrier: str, skip: int = 0) -> None:
        """Stop the first worker that comes to ``barrier`` after ``skip`` times went through."""
        assert barrier in BARRIERS, barrier
        _write(self._armed, f"{barrier} {skip}")

    def reached(self) -> Reached | None:
        """Who stands there; None as long as nobody does."""
        try:
            return Reached(*map(int, self._reached.read_text().split()))
        except FileNotFoundError:
            return None

    def release(self) -> None:
        """Let whoever stands there go on, and stop nobody else."""
        self._armed.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)


def stop_at(barrier: str) -> None:
    """The worker's side: block here if this is the barrier that is armed and nobody has taken it."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    armed = folder / "armed"
    try:
        name, skip = armed.read_text().split()
        if name != barrier:
            return
        if int(skip) > 0:
            _write(armed, f"{name} {int(skip) - 1}")
            return
        armed.rename(folder / f"taken-{os.getpid()}")
    except FileNotFoundError:  # none armed, or another worker was first
        return
    reached = folder / "reached"
    _write(reached, f"{os.getpid()} {os.getppid()}")
    while reached.exists():
        time.sleep(POLL_S)


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    draft.rename(path)
