"""Starts the programs of a benchmark, and stops all of them at its end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from windrow.stack.embedded_redis import find_redis_server, free_port, redis_answers, redis_command
from windrow.stack.supervisor import POLL_S, Child, Interrupted, Interrupts, Program, tail

#: Time to start and to stop, in seconds. The first load of a model on CUDA compiles it.
START_S, GRACE_S = 300.0, 20.0
Check = Callable[[], None]


class BenchFailed(Exception):
    """A part of the benchmark failed."""


@contextmanager
def running(
    name: str, command: list[str], folder: Path, environ: Mapping[str, str], grace_s: float = GRACE_S
) -> Iterator[Child]:
    """Run a program during the ``with`` block; its log is ``folder/<name>.log``."""
    child = Child(Program(name, command, environ, folder / f"{name}.log", grace_s))
    try:
        yield child
    finally:
        child.terminate()
        end_s = time.monotonic() + grace_s
        while child.status is None and time.monotonic() < end_s:
            time.sleep(POLL_S / 2)
        child.kill()


@contextmanager
def own_redis(folder: Path, interrupts: Interrupts, *, durable: bool = True) -> Iterator[str]:
    """Run a Redis with the settings of ``windrow serve`` during the ``with`` block, and yield its URL.

    Unless ``durable``, it writes no append-only file.
    """
    port = free_port()
    data = folder / f"redis-{port}"
    data.mkdir()
    url = f"redis://127.0.0.1:{port}/0"
    with running("redis", redis_command(find_redis_server(), port, data, durable=durable), folder, os.environ) as child:
        wait_until(lambda: redis_answers(url), child, interrupts)
        yield url


def run_part(module: str, spec: Mapping[str, Any], folder: Path, environ: Mapping[str, str], check: Check) -> Any:
    """Run ``python -m <module>`` with ``spec`` to its end and return its result.

    Raises `BenchFailed` if it fails, and whatever ``check`` raises.
    """
    given, result = folder / f"{module}.in.json", folder / f"{module}.out.json"
    given.write_bytes(orjson.dumps(spec))
    result.unlink(missing_ok=True)
    with running(module, [sys.executable, "-m", module, str(given), str(result)], folder, environ) as child:
        while child.status is None:
            check()
            time.sleep(POLL_S)
        if child.status != 0 or not result.is_file():
            raise BenchFailed(f"{module} ended with status {child.status}:\n{tail(child.program.log)}")
    return orjson.loads(result.read_bytes())


def part(work: Callable[[dict[str, Any]], Any]) -> None:
    """Run ``work`` as the main function of a module that `run_part` started."""
    given, result = sys.argv[1:]
    Path(result).write_bytes(orjson.dumps(work(orjson.loads(Path(given).read_bytes()))))


def wait_until(is_true: Callable[[], bool], child: Child, interrupts: Interrupts) -> None:
    """Poll until ``is_true``; raises `BenchFailed` if the program ends first or `START_S` pass."""
    end_s = time.monotonic() + START_S
    while not is_true():
        check_interrupts(interrupts)
        if child.status is not None or time.monotonic() > end_s:
            raise BenchFailed(f"{child.program.name} did not get ready:\n{tail(child.program.log)}")
        time.sleep(POLL_S / 2)


def require(child: Child) -> None:
    """Raise `BenchFailed` if the program has ended."""
    if child.status is not None:
        raise BenchFailed(f"{child.program.name} ended with status {child.status}:\n{tail(child.program.log)}")


def check_interrupts(interrupts: Interrupts) -> None:
    """Raise `Interrupted` if a signal has asked this program to stop."""
    if interrupts.count:
        raise Interrupted
