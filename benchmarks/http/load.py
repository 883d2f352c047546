"""Generates the load of ``python -m benchmarks http``: closed-loop clients in one process. Run by `run_part`.

This process shares the cores with the programs that it measures, so it encodes requests before the measurement and
decodes answers after it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson

from benchmarks.http.timeline import read_batches
from benchmarks.processes import cpu_by_label, labelled_processes
from windrow.bench.programs import part
from windrow.bench.workload import MODEL

STATUS = slice(9, 12)


def wire_request(text: str, port: int) -> bytes:
    """Return the bytes of one HTTP request."""
    body = orjson.dumps({"model": MODEL, "input": text, "parameters": {"truncate": True}})
    return (
        b"POST /v1/predictions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
        b"Prefer: wait=60\r\nContent-Length: %d\r\n\r\n%s" % (port, len(body), body)
    )


class Connection(asyncio.Protocol):
    """A client that sends its next request when the last one is answered."""

    def __init__(self, requests: list[bytes], numbers: Iterator[int], answers: list[tuple[float, float, int, bytes]]):
        self._requests, self._numbers, self._answers = requests, numbers, answers
        self._parts: list[bytes] = []
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport: Any = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Collect the raw answer, and record it with the times of the request and the answer."""
        if not self._parts:
            head, _, body = data.partition(b"\r\n\r\n")
            at = head.lower().index(b"content-length:") + 15
            self._missing = int(head[at : at + 20].split(b"\r\n", 1)[0]) - len(body)
        else:
            self._missing -= len(data)
        self._parts.append(data)
        if self._missing <= 0:
            self._answers.append((self._sent_s, time.monotonic(), self._number, b"".join(self._parts)))
            self._parts.clear()
            self._next()

    def _next(self) -> None:
        self._number = next(self._numbers) % len(self._requests)
        self._sent_s = time.monotonic()
        self._transport.write(self._requests[self._number])


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Send requests for ``warm_s + seconds``; return ``ended``, latencies, CPU seconds by program, and batches."""
    return asyncio.run(_measure(spec))


async def _measure(spec: dict[str, Any]) -> dict[str, Any]:
    requests = [wire_request(text, spec["port"]) for text in spec["texts"]]
    tokens: list[int] = spec["tokens"]
    answers: list[tuple[float, float, int, bytes]] = []
    numbers = count()
    processes = labelled_processes(spec["root_pid"])
    gc.disable()
    for _ in range(spec["clients"]):
        await asyncio.get_running_loop().create_connection(
            lambda: Connection(requests, numbers, answers), "127.0.0.1", spec["port"]
        )
    begin_s = time.monotonic() + spec["warm_s"]
    await asyncio.sleep(spec["warm_s"])
    cpu_before_s = cpu_by_label(processes)
    await asyncio.sleep(spec["seconds"])
    end_s = time.monotonic()
    cpu_after_s = cpu_by_label(processes)
    inside = [answer for answer in answers if begin_s < answer[1] <= end_s]
    good = [answer for answer in inside if answer[3][STATUS] == b"200"]
    predictions = [orjson.loads(raw.partition(b"\r\n\r\n")[2]) for _, _, _, raw in good]
    return {
        "begin_s": begin_s,
        "end_s": end_s,
        "ended": [(ended_s, tokens[number]) for _, ended_s, number, _ in answers],
        "latencies_s": [ended_s - sent_s for sent_s, ended_s, _, _ in inside],
        "failed": len(inside) - len(good) + sum(prediction["status"] != "succeeded" for prediction in predictions),
        "requests": len(inside),
        "cpu_s": {label: cpu_after_s[label] - cpu_before_s[label] for label in processes},
        "batches": [(batch.started_s, batch.ended_s, batch.size, batch.tokens) for batch in read_batches(predictions)],
    }


if __name__ == "__main__":
    part(measure)
