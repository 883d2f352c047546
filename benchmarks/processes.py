"""CPU time of programs and everything they started, from /proc. Linux only."""

from __future__ import annotations

import os
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
#: A word in the command line of a program -> what the reports call it; the first that fits.
LABELS = {
    "benchmarks.http.load": "client",
    "benchmarks.celery_peer.load": "client",
    "redis-server": "redis",
    "gunicorn": "api",
    "windrow.housekeeping": "housekeeping",
    "celery": "worker",
}


def label_of(command: str) -> str | None:
    """What the reports call the program of that command line; None for what they leave out."""
    return next((label for word, label in LABELS.items() if word in command), None)


def labelled_processes(root: int) -> dict[str, list[int]]:
    """Descendants of ``root`` by label; what a program forks has its parent's command line, and so its label."""
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
    """CPU seconds that the processes have used so far, all threads; one that is gone counts as nothing."""
    stats = [_stat(pid) for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats if fields is not None) * TICK_S


def cpu_by_label(processes: dict[str, list[int]]) -> dict[str, float]:
    """`cpu_s` of each label."""
    return {label: cpu_s(pids) for label, pids in processes.items()}


def _stat(pid: int) -> list[str] | None:
    # Fields after the name, which may hold anything: state, ppid, ...; proc(5) counts them from 3.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
