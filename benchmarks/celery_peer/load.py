"""Generates the load of plain Celery: closed-loop threads that call ``.delay().get()``. Run by `run_part`."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import Any

from benchmarks.celery_peer.app import app, embed
from benchmarks.processes import cpu_by_label, labelled_processes
from windrow.bench.programs import part


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the same results as `benchmarks.http.load.measure`, without batches."""
    texts, tokens = spec["texts"], spec["tokens"]
    numbers, stops = count(), threading.Event()
    answers: list[tuple[float, float, int]] = []
    failures: list[BaseException] = []

    def client() -> None:
        while not stops.is_set():
            number = next(numbers) % len(texts)
            sent_s = time.monotonic()
            try:
                embed.delay(texts[number]).get(timeout=60)
            except Exception as error:
                failures.append(error)
                return
            answers.append((sent_s, time.monotonic(), number))

    embed.delay(texts[0]).get(timeout=120)
    processes = labelled_processes(spec["root_pid"])
    threads = [threading.Thread(target=client, daemon=True) for _ in range(spec["clients"])]
    for thread in threads:
        thread.start()
    begin_s = time.monotonic() + spec["warm_s"]
    time.sleep(spec["warm_s"])
    cpu_before_s = cpu_by_label(processes)
    time.sleep(spec["seconds"])
    end_s = time.monotonic()
    cpu_after_s = cpu_by_label(processes)
    stops.set()
    for thread in threads:
        thread.join()
    app.close()
    inside = [answer for answer in answers if begin_s < answer[1] <= end_s]
    return {
        "begin_s": begin_s,
        "end_s": end_s,
        "ended": [(ended_s, tokens[number]) for _, ended_s, number in answers],
        "latencies_s": [ended_s - sent_s for sent_s, ended_s, _ in inside],
        "failed": len(failures),
        "requests": len(inside),
        "cpu_s": {label: cpu_after_s[label] - cpu_before_s[label] for label in processes},
    }


if __name__ == "__main__":
    part(measure)
