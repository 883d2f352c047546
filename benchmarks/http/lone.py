"""``python -m benchmarks lone``: the latency that Windrow adds to the model call for a single client."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks.http.load import wire_request
from benchmarks.stats import median, percentile
from windrow.bench.programs import BenchFailed
from windrow.bench.workload import bench_environ
from windrow.lab.sample_texts import mixed_texts
from windrow.stack.serve import Stack
from windrow.stack.supervisor import Interrupts

TARGET_MS = 5.0
#: Requests of one contender before the other one's turn.
BLOCK = 10
#: Pause between turns in seconds, because idle threads of the model spin before they sleep.
SETTLE_S = 0.05
WARM = 20
#: Fields of a prediction's ``metrics`` and their names in the report.
STAGES = {
    "queue_ms": "in the queue until claimed",
    "batch_wait_ms": "tokenising and waiting for the window",
    "compute_ms": "forward pass in the worker",
}
Ask = Callable[[list[str]], list[float]]


def run_lone(requests: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure HTTP and model calls alternately; ``figures`` are rows of ``name, value, unit, target``."""
    texts = mixed_texts(requests)
    answers: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix="windrow-bench-") as name, Interrupts() as interrupts:
        folder = Path(name)
        environ = bench_environ(folder)
        with (
            Stack(folder, environ, interrupts, say) as stack,
            engine_calls(environ) as direct,
            http_client(stack.url, answers) as over_http,
        ):
            for ask in (over_http, direct):
                ask(texts[:WARM])
            answers.clear()
            http_s, direct_s = _alternate(texts, [over_http, direct], stack.check)
    stages = [orjson.loads(answer)["metrics"] for answer in answers]
    return summarise(http_s, direct_s, stages)


def summarise(http_s: list[float], direct_s: list[float], stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the report from the seconds of each text and the ``metrics`` of the answers, in the same order."""
    http_ms, direct_ms = [[took_s * 1e3 for took_s in times_s] for times_s in (http_s, direct_s)]
    pairs = [over - alone for over, alone in zip(http_ms, direct_ms, strict=True)]
    rows: list[tuple[str, float, str | None]] = [
        ("over HTTP, p50", median(http_ms), None),
        ("over HTTP, p99", percentile(http_ms, 0.99), None),
        ("the model call, p50", median(direct_ms), None),
        ("the model call, p99", percentile(direct_ms, 0.99), None),
        ("difference of the p50", median(http_ms) - median(direct_ms), f"<= {TARGET_MS:g}"),
        ("median difference text by text", median(pairs), None),
    ]
    rows += [(f"{words}, p50", median([metrics[name] for metrics in stages]), None) for name, words in STAGES.items()]
    figures = [{"name": name, "value": value, "unit": "ms", "target": target} for name, value, target in rows]
    return {"figures": figures, "http_ms": http_ms, "direct_ms": direct_ms}


@contextmanager
def http_client(url: str, answers: list[bytes]) -> Iterator[Ask]:
    """Yield a function that sends texts over one connection and appends the bodies of the answers to ``answers``."""
    address = urlsplit(url)
    port = address.port or 80
    connection = socket.create_connection((str(address.hostname), port), timeout=90)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(text: str) -> float:
        request = wire_request(text, port)
        began_s = time.perf_counter()
        connection.sendall(request)
        head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += connection.recv(1 << 16)
        took_s = time.perf_counter() - began_s
        if b" 200 " not in head[:13]:
            raise BenchFailed(f"expected status 200, received {head[:100]!r} {body[:300]!r}")
        answers.append(body)
        return took_s

    try:
        yield lambda texts: [ask(text) for text in texts]
    finally:
        connection.close()


@contextmanager
def engine_calls(environ: Mapping[str, str]) -> Iterator[Ask]:
    """Yield a function that runs the engine on texts in its own process, which times only the model call."""
    command = [sys.executable, "-m", "benchmarks.http.engine_calls"]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pipe_in, pipe_out = process.stdin, process.stdout

        def read() -> list[float]:
            line = pipe_out.readline()
            if not line:
                raise BenchFailed("the process with the model has ended")
            took_s: list[float] = orjson.loads(line)
            return took_s

        def ask(texts: list[str]) -> list[float]:
            pipe_in.write(orjson.dumps(texts) + b"\n")
            pipe_in.flush()
            return read()

        try:
            read()
            yield ask
        finally:
            process.kill()


def _alternate(texts: list[str], sides: list[Ask], check: Callable[[], None]) -> list[list[float]]:
    took_s: list[list[float]] = [[] for _ in sides]
    for start in range(0, len(texts), BLOCK):
        check()
        for ask, seconds in zip(sides, took_s, strict=True):
            time.sleep(SETTLE_S)
            seconds += ask(texts[start : start + BLOCK])
    return took_s
