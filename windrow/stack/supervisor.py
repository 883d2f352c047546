"""`Supervisor`: starts a few programs, detects when one exits, and leaves none running.

It replaces honcho because the programs stop in an order (the API first, Redis last), a worker may drain for longer than
the 5 s of honcho, and the demo works between start and stop. It has no threads: signal handlers only count, and the
caller runs `Supervisor.check` a few times per second.
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

#: Lines of a log that are shown when its program exits.
TAIL_LINES = 15
TAIL_BYTES = 16_384
POLL_S = 0.1
#: Exit code of a command that a signal stopped, as shells report SIGINT.
INTERRUPTED = 130
#: prctl(2): the signal that a process receives when its parent dies.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    #: Time between TERM and KILL, in seconds.
    grace_s: float


class ProgramEnded(Exception):
    """A program exited that should still run."""

    def __init__(self, name: str, status: int, log: Path) -> None:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        super().__init__(f"{name} {how}; the end of {log}:\n{tail(log)}")


class Interrupted(Exception):
    """This process received INT, TERM or HUP."""


class Interrupts:
    """A context manager in which INT, TERM and HUP are counted instead of interrupting the process."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A signal that nohup ignores stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._count_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _count_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


class Child:
    """A running program in its own process group, so that Ctrl-C in the terminal reaches only its parent."""

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
        """The process id, which is also that of the process group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while the program runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Send TERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill the process group and wait for the program."""
        with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def new_lines(self) -> list[str]:
        """Return the complete lines that were added to the log since the last call."""
        with self.program.log.open("rb") as log:
            log.seek(self._shown_bytes)
            text, newline, _ = log.read().rpartition(b"\n")
        self._shown_bytes += len(text) + len(newline)
        return text.decode(errors="replace").splitlines()


class Supervisor:
    """Starts and stops programs; ``echo`` receives the name of a program and each line of its log."""

    def __init__(self, interrupts: Interrupts, echo: Callable[[str, str], None] | None = None) -> None:
        self._interrupts = interrupts
        self._echo = echo
        self._children: list[Child] = []

    def start(self, program: Program) -> None:
        """Start ``program``, which `check` watches from then on."""
        self._children.append(Child(program))

    def check(self) -> None:
        """Raise `Interrupted` after a signal and `ProgramEnded` if a program has exited."""
        self._echo_logs()
        if self._interrupts.count:
            raise Interrupted
        for child in self._children:
            if child.status is not None:
                raise ProgramEnded(child.program.name, child.status, child.program.log)

    def wait_until(self, is_true: Callable[[], bool], limit_s: float) -> bool:
        """Poll ``is_true`` and `check`; return False after ``limit_s``."""
        end_s = time.monotonic() + limit_s
        while not is_true():
            self.check()
            if time.monotonic() > end_s:
                return False
            time.sleep(POLL_S)
        return True

    def stop(self, *phases: Sequence[str]) -> list[str]:
        """Stop the named programs phase by phase, then all others; return the names of those that had to be killed.

        A signal during the stop kills the remaining programs at once.
        """
        signals_before = self._interrupts.count
        killed: list[str] = []
        for names in (*phases, [child.program.name for child in self._children]):
            stopping = [child for child in self._children if child.program.name in names]
            for child in stopping:
                child.terminate()
            started_s = time.monotonic()
            while running := [child for child in stopping if child.status is None]:
                self._echo_logs()
                waited_s = time.monotonic() - started_s
                in_time = [child for child in running if waited_s < child.program.grace_s]
                if not in_time or self._interrupts.count > signals_before:
                    break
                time.sleep(POLL_S / 2)
            killed += [child.program.name for child in running]
            for child in stopping:
                child.kill()
            self._echo_logs()
            self._children = [child for child in self._children if child not in stopping]
        return killed

    def _echo_logs(self) -> None:
        if self._echo is not None:
            for child in self._children:
                for line in child.new_lines():
                    self._echo(child.program.name, line)


def tail(log: Path) -> str:
    """Return the last lines of ``log``, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"  {line}" for line in lines) or "  (empty)"


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """Return code for the new process: on Linux, the kernel sends it TERM if this process dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the kernel watched it
            os._exit(1)

    return ask_kernel
