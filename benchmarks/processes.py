"""CPU time of programs and their descendants, read from /proc on Linux."""

from __future__ import annotations

import os
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
#: Words in a program's command line and its name in the reports; the first match counts.
LABELS = {
    "benchmarks.http.load": "client",
    "benchmarks.celery_peer.load": "client",
    "redis-server": "redis",
    "gunicorn": "api",
    "windrow.housekeeping": "housekeeping",
    "celery": "worker",
}


def label_of(command: str) -> str | None:
    """Return the name of a program in the reports, or None if they omit it."""
    return next((label for word, label in LABELS.items() if word in command), None)


def labelled_processes(root: int) -> dict[str, list[int]]:
    """Return the process ids of ``root``'s descendants by label; forked processes have their parent's label."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: dict[str, list[int]] = {}
    left = list(children.get(root, []))
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        if (label := label_of(_command(pid))) is not None:
            found.setdefault(label, []).append(pid)
    return found


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds that the processes have used so far; a process that has ended counts as 0."""
    stats = [_stat(pid) for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats if fields is not None) * TICK_S


def cpu_by_label(processes: dict[str, list[int]]) -> dict[str, float]:
    """Return the CPU seconds of each label's processes."""
    return {label: cpu_s(pids) for label, pids in processes.items()}


def _stat(pid: int) -> list[str] | None:
    # The fields after the process name, beginning with number 3 of proc(5), the state.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
