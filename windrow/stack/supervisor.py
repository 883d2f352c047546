"""Start a few programs, notice when one ends, and leave none behind.

Not honcho: its manager starts everything at once, stops everything at once with a fixed 5 s before KILL, takes the
signal handlers for itself and runs each line through a shell. Here the order matters (the API stops first, Redis last),
a worker may drain for longer than 5 s, and the demo has work of its own to do between start and stop.

There are no threads: signals only count, and whoever waits calls `Supervisor.check` a few times a second.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

#: Lines of a log that are shown when its program ends by itself.
TAIL_LINES = 15
TAIL_BYTES = 16_384
POLL_S = 0.1
#: prctl(2): the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to start, and how long it may take to stop."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    #: Seconds between TERM and KILL.
    grace_s: float


class ProgramEnded(Exception):
    """A program ended that should have gone on."""

    def __init__(self, name: str, status: int, log: Path) -> None:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        super().__init__(f"{name} {how}; the end of {log}:\n{tail(log)}")


class Interrupted(Exception):
    """INT, TERM or HUP asked this process to stop."""


class Interrupts:
    """Counts INT, TERM and HUP while it is entered, instead of letting them interrupt anything."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What nohup ignores stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


class Child:
    """A running program, in a process group of its own so that Ctrl-C in the terminal reaches only its parent."""

    def __init__(self, program: Program) -> None:
        self.program = program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("wb") as log:
            self._process = subprocess.Popen(
                program.command,
                env=program.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )
        self._shown_bytes = 0

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group's."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.terminate()

    def kill(self) -> None:
        """End whatever is left of its process group."""
        with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def new_lines(self) -> list[str]:
        """Whole lines that its log got since the last call."""
        with self.program.log.open("rb") as log:
            log.seek(self._shown_bytes)
            text, newline, _ = log.read().rpartition(b"\n")
        self._shown_bytes += len(text) + len(newline)
        return text.decode(errors="replace").splitlines()


class Supervisor:
    """Programs started in order and stopped in another; ``echo`` gets each line of their logs with its name."""

    def __init__(self, interrupts: Interrupts, echo: Callable[[str, str], None] | None = None) -> None:
        self._interrupts = interrupts
        self._echo = echo
        self._children: list[Child] = []

    def start(self, program: Program) -> None:
        """Start ``program``; from then on `check` watches it."""
        self._children.append(Child(program))

    def check(self) -> None:
        """Raise `Interrupted` or `ProgramEnded` where it is time to stop."""
        self._pass_on_logs()
        if self._interrupts.count:
            raise Interrupted
        for child in self._children:
            if child.status is not None:
                raise ProgramEnded(child.program.name, child.status, child.program.log)

    def wait_until(self, is_true: Callable[[], bool], limit_s: float) -> bool:
        """Poll ``is_true``, calling `check` meanwhile; False when ``limit_s`` passes first."""
        end_s = time.monotonic() + limit_s
        while not is_true():
            self.check()
            if time.monotonic() > end_s:
                return False
            time.sleep(POLL_S)
        return True

    def stop(self, *phases: Sequence[str]) -> list[str]:
        """Stop the named programs phase by phase, then all others; returns the names of those that had to be killed.

        One more signal than came before the stop kills the rest at once.
        """
        signals_before = self._interrupts.count
        killed: list[str] = []
        for names in (*phases, [child.program.name for child in self._children]):
            stopping = [child for child in self._children if child.program.name in names]
            for child in stopping:
                child.terminate()
            started_s = time.monotonic()
            while running := [child for child in stopping if child.status is None]:
                self._pass_on_logs()
                waited_s = time.monotonic() - started_s
                in_time = [child for child in running if waited_s < child.program.grace_s]
                if not in_time or self._interrupts.count > signals_before:
                    break
                time.sleep(POLL_S / 2)
            killed += [child.program.name for child in running]
            for child in stopping:
                child.kill()
            self._pass_on_logs()
            self._children = [child for child in self._children if child not in stopping]
        return killed

    def _pass_on_logs(self) -> None:
        if self._echo is not None:
            for child in self._children:
                for line in child.new_lines():
                    self._echo(child.program.name, line)


def tail(log: Path) -> str:
    """The last lines of ``log``, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"  {line}" for line in lines) or "  (empty)"


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """Code for the new process: on Linux, let the kernel send it TERM should this process be killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)

    return ask_kernel
