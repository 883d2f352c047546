"""``python -m benchmarks generate-queue``: what the queue costs generation, and token latencies at several loads.

The same engine answers the same load alternately driven directly and behind the queue. Then requests arrive at random
times, at shares of the request rate that the engine reached with a full queue.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from redis import Redis

from benchmarks.generate.llama import SHAPES
from benchmarks.generate.run import choose_shape
from benchmarks.generate.worker import DIRECT, DONE_KEY, END, MODEL, SERVE, STOP_KEY, TODO_KEY, read_entry
from benchmarks.result_listener import ResultListener
from benchmarks.stats import median, median_ratio, percentile
from windrow.bench.compare.queue_users import NO_LIMIT, SECRET
from windrow.bench.generation_load import Ask, make_load
from windrow.bench.programs import BenchFailed, check_interrupts, own_redis, run_part
from windrow.bench.workload import bench_environ
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.ids import make_id
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL
from windrow.scheduler.queue.records import encode_call
from windrow.stack.supervisor import Interrupts

Say = Callable[[str], None]
#: Target for the ratio to the rate without the queue.
LEAST_RATIO = 0.95
#: Loads as shares of the capacity.
SHARES = (0.25, 0.5, 0.75, 0.9)
#: Requests per batch slot with which the capacity is measured.
CAPACITY_REQUESTS_PER_SLOT = 4
START_S = 300.0


@dataclass(frozen=True, slots=True)
class Served:
    """The results of one load through the queue; times are of `time.monotonic`."""

    from_s: float
    #: When each request finished, in any order.
    ended_s: list[float]
    tokens: int
    #: The ``metrics`` of each result.
    metrics: list[dict[str, Any]]
    #: Time at which each step was collected, and its number of decoding sequences.
    steps: list[tuple[float, int]]

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second from the first submit to the last announcement."""
        return self.tokens / (max(self.ended_s) - self.from_s)

    def middle_requests_per_s(self) -> float:
        """Return the requests per second of the middle 80 % of the requests."""
        ended = sorted(self.ended_s)
        middle = ended[len(ended) // 10 : len(ended) * 9 // 10]
        return (len(middle) - 1) / (middle[-1] - middle[0])

    def gap_ms(self, share: float) -> float:
        """Return a percentile of the times between two tokens of a sequence, after its second token."""
        steps = sorted(self.steps)
        gaps = [((at - before) * 1e3, rows) for (before, _), (at, rows) in pairwise(steps) if rows]
        values, weights = np.array([gap for gap, _ in gaps]), np.array([rows for _, rows in gaps])
        order = values.argsort()
        return float(values[order][np.searchsorted(weights[order].cumsum(), share * weights.sum())])


def run_generate_queue(
    requests: int, shape: str | None, batch_size: int, scale: float, rounds: int, seconds: float, say: Say
) -> dict[str, Any]:  # fmt: skip
    """Measure; ``figures`` are rows of ``name, value, unit, target``. Raises `BenchFailed`."""
    shape = choose_shape(shape)
    with (
        Interrupts() as interrupts,
        tempfile.TemporaryDirectory(prefix="windrow-bench-") as name,
        own_redis(Path(name), interrupts, durable=False) as url,
        Redis.from_url(url) as redis,
    ):
        spec = {
            "url": url, "folder": str(Path(name) / "llama"), "shape": shape, "requests": requests, "scale": scale,
            "model": {"task": "generate", "max_batch_size": batch_size},
        }  # fmt: skip
        results: dict[str, Any] = {}
        client = Client(redis, shape, scale, say)
        client_thread = threading.Thread(
            target=client.run, args=(requests, batch_size, rounds, seconds, results), daemon=True
        )
        client_thread.start()
        run_part(
            "benchmarks.generate.worker",
            spec,
            Path(name),
            bench_environ(Path(name)),
            lambda: check_interrupts(interrupts),
        )
        client_thread.join()
    if "error" in results:
        raise results["error"]
    return {"requests": requests, "shape": shape, **results, "figures": _figures(results)}


class Client:
    """Sends commands to the worker, and requests while it serves."""

    def __init__(self, redis: Redis, shape: str, scale: float, say: Say) -> None:
        self._redis, self._scale, self._say = redis, scale, say
        self._vocabulary = SHAPES[shape]["vocab_size"]
        self._queue = RedisQueue(redis, MODEL)
        self._seed = 0

    def run(self, requests: int, batch_size: int, rounds: int, seconds: float, results: dict[str, Any]) -> None:
        """Run all measurements, and put the results or the ``error`` into ``results``."""
        try:
            results["device"] = read_entry(self._redis, DONE_KEY, START_S)
            self._say("model loaded, checked and captured")
            rates = results["tokens_per_s"] = {"direct": [], "queue": [], "streamed": []}
            for _ in range(rounds):
                rates["direct"].append(self._command(DIRECT, seed=self._next_seed())["tokens_per_s"])
                rates["queue"].append(self._serve(self._load(requests), streamed=False).tokens_per_s)
                rates["streamed"].append(self._serve(self._load(requests)).tokens_per_s)
                self._say("tokens/s: " + ", ".join(f"{name} {each[-1]:,.0f}" for name, each in rates.items()))
            full = self._serve(self._load(CAPACITY_REQUESTS_PER_SLOT * batch_size))
            results["capacity_per_s"] = full.middle_requests_per_s()
            results["full_tokens_per_s"] = full.tokens_per_s
            results["loads"] = [self._at_share(share, results["capacity_per_s"], seconds) for share in SHARES]
        except Exception as error:  # Raised by the thread that waits for this one.
            results["error"] = error
        finally:
            self._redis.set(STOP_KEY, 1)
            self._redis.rpush(TODO_KEY, orjson.dumps({"do": END}))

    def _at_share(self, share: float, capacity_per_s: float, seconds: float) -> dict[str, float]:
        rate = share * capacity_per_s
        count = max(8, int(rate * seconds))
        due_s = np.cumsum(np.random.default_rng(count).exponential(1 / rate, count))
        served = self._serve(self._load(count), due_s)
        first_ms = [metrics["time_to_first_token_ms"] for metrics in served.metrics]
        load = {
            "share": share, "requests_per_s": rate, "requests": count,
            "ttft_p50_ms": percentile(first_ms, 0.5), "ttft_p99_ms": percentile(first_ms, 0.99),
            "itl_p50_ms": served.gap_ms(0.5), "itl_p99_ms": served.gap_ms(0.99),
        }  # fmt: skip
        self._say(", ".join(f"{name} {value:,.2f}" for name, value in load.items()))
        return load

    def _serve(self, load: Sequence[Ask], due_s: Any = None, *, streamed: bool = True) -> Served:
        """Send ``load`` through the queue, at once or at the times ``due_s`` in seconds from the start.

        If ``streamed``, the tokens of each request are written to its event stream.
        """
        payloads = [_payload(ask, streamed) for ask in load]
        self._command(SERVE)
        with ResultListener(self._redis, MODEL) as listener:
            from_s = time.monotonic()
            # The listener's times are of `perf_counter`.
            clock_offset_s = time.perf_counter() - from_s
            ids: list[str] = []
            if due_s is None:
                for start in range(0, len(payloads), MAX_REQUESTS_PER_CALL):
                    ids += self._submit(payloads[start : start + MAX_REQUESTS_PER_CALL], streamed)
            else:
                for payload, at_s in zip(payloads, due_s, strict=True):
                    time.sleep(max(0.0, from_s + at_s - time.monotonic()))
                    ids += self._submit([payload], streamed)
            ended_s = [listener.wait_for(id) - clock_offset_s for id in ids]
        self._redis.set(STOP_KEY, 1)
        steps = [(at_s, rows) for at_s, rows in read_entry(self._redis, DONE_KEY, START_S)]
        return Served(from_s, ended_s, sum(ask.tokens for ask in load), [self._metrics(id) for id in ids], steps)

    def _submit(self, payloads: Sequence[bytes], streamed: bool) -> list[str]:
        submissions = [Submission(make_id(SECRET, "bench"), payload, is_followed=streamed) for payload in payloads]
        return self._queue.submit(
            submissions, flow="bench:normal", weight=4.0, max_depth=NO_LIMIT, max_bytes=NO_LIMIT
        ).ids

    def _metrics(self, id: str) -> dict[str, Any]:
        found = self._queue.lookup(id)
        if found is None or found.error is not None:
            raise BenchFailed(f"{id}: {'no such request' if found is None else found.error}")
        return dict(found.metrics or {})

    def _load(self, requests: int) -> list[Ask]:
        return make_load(requests, self._vocabulary, self._scale, self._next_seed())

    def _next_seed(self) -> int:
        # A new seed for every load, so that no prompt shares a cached prefix with an earlier one.
        self._seed += 1
        return self._seed

    def _command(self, command: str, **more: Any) -> Any:
        self._redis.rpush(TODO_KEY, orjson.dumps({"do": command, **more}))
        return read_entry(self._redis, DONE_KEY, START_S)


def _payload(ask: Ask, streamed: bool) -> bytes:
    parameters = {"max_tokens": ask.tokens, "ignore_eos": True}
    return encode_call(MODEL, {"prompt_ids": ask.ids}, parameters, is_followed=streamed)


def _figures(results: dict[str, Any]) -> list[dict[str, Any]]:
    rates = results["tokens_per_s"]
    rows: list[tuple[str, float, str, str | None]] = [
        ("engine driven directly", median(rates["direct"]), "tokens/s", None)
    ]
    for name, key in (("through the queue", "queue"), ("through the queue, streamed", "streamed")):
        rows.append((f"the same load {name}", median(rates[key]), "tokens/s", None))
        rows.append(("ratio", median_ratio(rates[key], rates["direct"]), "x", f">= {LEAST_RATIO}"))
    rows += [
        ("streamed, always enough to do", results["full_tokens_per_s"], "tokens/s", None),
        ("capacity", results["capacity_per_s"], "requests/s", None),
    ]
    for load in results["loads"]:
        for name, key in (("TTFT", "ttft"), ("ITL", "itl")):
            for part in ("p50", "p99"):
                at = f"at {load['share']:.0%} of it ({load['requests_per_s']:.0f}/s), {name} {part}"
                rows.append((at, load[f"{key}_{part}_ms"], "ms", None))
    digits = {"tokens/s": 0, "requests/s": 1, "x": 3}
    return [
        {"name": name, "value": value, "unit": unit, "target": target, "digits": digits.get(unit, 2)}
        for name, value, unit, target in rows
    ]
