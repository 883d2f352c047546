"""``python -m benchmarks encoder``: a BERT with random weights behind the queue, compared with the device alone."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from redis import Redis

from benchmarks.encoder.device_use import DeviceUse
from benchmarks.encoder.worker import DEVICES_KEY, MODEL, READY_KEY, STOP_KEY
from benchmarks.result_listener import ResultListener
from benchmarks.stats import median, median_ratio, percentile
from windrow.bench.programs import BenchFailed, check_interrupts, own_redis, run_part
from windrow.bench.workload import bench_environ
from windrow.lab.sample_texts import LOG_SIGMA, mixed_texts
from windrow.scheduler.config.values import DEFAULT_MODELS
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.ids import make_id
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL
from windrow.stack.supervisor import Interrupts
from windrow.worker.pool.pool_process import visible_devices

Say = Callable[[str], None]
SECRET = b"benchmark"
TARGETS = {"ratio": 0.9, "busy": 0.95, "lone_ms": 2.0, "open_p99_ms": 25.0, "padding": 1.02, "devices": 0.975}
START_S = 300.0


class Sizes(NamedTuple):
    """The sizes of the measurements."""

    #: Texts queued per device.
    items: int
    batch_size: int
    batch_tokens: int
    layers: int
    #: Mean words per text; 58 words are 63 tokens.
    words: float
    #: Pool processes per device.
    processes: int
    devices: int
    #: How often the queue is filled and emptied with each number of devices.
    rounds: int
    #: Requests per second of the open loop.
    rate: float
    #: Length of the open loop and of each upper bound, in seconds.
    seconds: float


class EmptiedQueue(NamedTuple):
    """One run in which ``devices`` emptied a filled queue; times are of `time.monotonic`."""

    devices: int
    items: int
    from_s: float
    to_s: float
    #: CPU seconds that Redis used; it runs commands in one thread.
    redis_cpu_s: float


def run_encoder(sizes: Sizes, say: Say) -> dict[str, Any]:
    """Measure everything; ``figures`` are rows of ``name, value, unit, target``."""
    names = visible_devices()
    if len(names) < sizes.devices:
        raise BenchFailed(f"the benchmark needs {sizes.devices} CUDA device(s), and this machine has {len(names)}")
    only = {"CUDA_VISIBLE_DEVICES": ",".join(names[: sizes.devices])}
    with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="windrow-bench-") as name:
        folder = Path(name)
        model = {
            "task": "classify", "source": str(make_bert(folder / "bert", sizes.layers)), "strategy": "packed",
            "max_batch_size": sizes.batch_size, "max_batch_tokens": sizes.batch_tokens,
        }  # fmt: skip
        texts = mixed_texts(20_000, log_mean=math.log(sizes.words) - LOG_SIGMA**2 / 2)
        ranks = sizes.processes * sizes.devices
        with (
            own_redis(folder, interrupts, durable=False) as url,
            Redis.from_url(url) as redis,
            ThreadPoolExecutor(ranks) as pool,
            DeviceUse() as use,
        ):
            shared = {"url": url, "model": model, "texts": texts, "ranks": ranks, "devices": sizes.devices}
            client = Client(redis, texts, sizes, say)
            client_thread = threading.Thread(target=client.run, daemon=True)
            client_thread.start()

            def run_rank(rank: int) -> dict[str, Any]:
                (rank_folder := folder / str(rank)).mkdir()
                spec = shared | {"rank": rank, "seconds": sizes.seconds}
                report: dict[str, Any] = run_part(
                    "benchmarks.encoder.worker",
                    spec,
                    rank_folder,
                    bench_environ(rank_folder) | only,
                    lambda: check_interrupts(interrupts),
                )
                return report

            reports = list(pool.map(run_rank, range(ranks)))
            client_thread.join()
            busy = [use.ratio(run.from_s, run.to_s, run.devices) for run in client.emptied]
    return summarise(reports, client, busy, sizes)


def summarise(
    reports: Sequence[dict[str, Any]], client: Client, busy: Sequence[float | None], sizes: Sizes
) -> dict[str, Any]:
    """Combine the reports of the processes, of which the first measured the upper bound."""
    first = reports[0]
    bound_per_s = (first["bound_per_s"] + first["bound_after_per_s"]) / 2
    ended = sorted((at_s, count) for report in reports for at_s, count in report["ended"])
    rates: dict[int, list[float]] = {}
    for run in client.emptied:
        rates.setdefault(run.devices, []).append(middle_rate(ended, run))
    tokens, asked = (sum(report[key] for report in reports) for key in ("tokens", "asked_tokens"))
    rows: list[tuple[str, float, str, str | None]] = [
        ("one device alone, before", first["bound_per_s"], "texts/s", None),
        ("one device alone, after", first["bound_after_per_s"], "texts/s", None),
        ("through the queue, one device", median(rates[1]), "texts/s", None),
        ("ratio", median(rates[1]) / bound_per_s, "x", f">= {TARGETS['ratio']}"),
    ]
    for devices, measured in rates.items():
        if devices > 1:
            ratio = median_ratio(measured, rates[1])
            rows.append((f"through the queue, {devices} devices", median(measured), "texts/s", None))
            rows.append(("against one", ratio, "x", f">= {TARGETS['devices'] * devices:.4g}"))
    shares = [share for share, run in zip(busy, client.emptied, strict=True) if share is not None and run.devices == 1]
    if shares:
        rows.append(("device busy while the queue was emptied", median(shares), "", f">= {TARGETS['busy']}"))
    redis_use = [run.redis_cpu_s / (run.to_s - run.from_s) for run in client.emptied if run.devices == sizes.devices]
    rows += [
        ("Redis busy meanwhile, of one core", median(redis_use), "", None),
        ("tokens computed over tokens asked", tokens / asked, "x", f"<= {TARGETS['padding']}"),
        ("a lone call of the engine, p50", first["lone_call_ms"], "ms", None),
        ("a lone request, queue to result, p50", client.lone_ms, "ms", None),
        ("difference", client.lone_ms - first["lone_call_ms"], "ms", f"<= {TARGETS['lone_ms']:g}"),
        (f"{sizes.rate:g} requests/s, open loop, p50", percentile(client.open_loop_ms, 0.5), "ms", None),
        (f"{sizes.rate:g} requests/s, open loop, p99", percentile(client.open_loop_ms, 0.99), "ms",
         f"<= {TARGETS['open_p99_ms']:g}"),
        ("model loaded, checked and captured in", first["load_s"], "s", None),
        ("relative error against float32", first["relative_error"] or 0.0, "", None),
    ]  # fmt: skip
    digits = {"texts/s": 0, "": 4}
    figures = [
        {"name": name, "value": value, "unit": unit, "target": target, "digits": digits.get(unit, 3)}
        for name, value, unit, target in rows
    ]
    return {
        "figures": figures,
        "rates_per_s": {str(devices): measured for devices, measured in rates.items()},
        "device_busy": list(busy),
        "sizes": sizes._asdict(),
    }


def middle_rate(ended: Sequence[tuple[float, int]], emptied: EmptiedQueue) -> float:
    """Return the texts per second of the middle 80 % of a run, in which all batch loops were busy.

    ``ended`` has the time and the number of texts of each collected batch, in order.
    """
    done, marks = 0, []
    for at_s, count in ended:
        if emptied.from_s <= at_s <= emptied.to_s:
            done += count
            if emptied.items * 0.1 <= done <= emptied.items * 0.9:
                marks.append((at_s, done))
    (from_s, from_done), (to_s, to_done) = marks[0], marks[-1]
    return (to_done - from_done) / (to_s - from_s)


def make_bert(folder: Path, layers: int) -> Path:
    """Save a classifier of BERT-base's shape with random weights, and the tokenizer of the installed model."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(num_hidden_layers=layers, num_labels=2)).save_pretrained(folder)
    shutil.copy(resolve_source(DEFAULT_MODELS["minilm"]["source"], weights=False) / "tokenizer.json", folder)
    return folder


class Client:
    """Fills the queue and waits until it is empty, then sends single requests, then an open loop."""

    def __init__(self, redis: Redis, texts: list[str], sizes: Sizes, say: Say) -> None:
        self._redis, self._texts, self._sizes, self._say = redis, texts, sizes, say
        self._queue = RedisQueue(redis, MODEL)
        self.emptied: list[EmptiedQueue] = []
        self.lone_ms = 0.0
        #: Milliseconds from the due time of each request of the open loop to the announcement of its result.
        self.open_loop_ms: list[float] = []

    def run(self) -> None:
        """Run all measurements, then tell the processes to stop."""
        try:
            end_s = time.monotonic() + START_S
            while not self._redis.exists(READY_KEY):
                if time.monotonic() > end_s:
                    return
                time.sleep(0.1)
            self._say("models loaded, upper bound measured")
            for _ in range(self._sizes.rounds):
                for devices in range(1, self._sizes.devices + 1):
                    self._empty(devices)
            self._redis.set(DEVICES_KEY, 1)
            with ResultListener(self._redis, MODEL) as listener:
                self._single_requests(listener)
                self._open_loop(listener)
        finally:
            self._redis.set(STOP_KEY, 1)

    def _empty(self, devices: int) -> None:
        items, texts = self._sizes.items * devices, self._texts
        self._redis.set(DEVICES_KEY, 0)
        time.sleep(2.5)  # blocked claims have returned
        for start in range(0, items, MAX_REQUESTS_PER_CALL):
            end = min(items, start + MAX_REQUESTS_PER_CALL)
            _submit(self._queue, [texts[number % len(texts)] for number in range(start, end)])
        from_s, before_s = time.monotonic(), self._redis_cpu_s()
        self._redis.set(DEVICES_KEY, devices)
        while (depth := self._queue.depth()).waiting or depth.running:
            time.sleep(0.05)
        self.emptied.append(EmptiedQueue(devices, items, from_s, time.monotonic(), self._redis_cpu_s() - before_s))
        self._say(f"{devices} device(s) emptied a queue of {items:,} texts")

    def _redis_cpu_s(self) -> float:
        info: Any = self._redis.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def _single_requests(self, listener: ResultListener) -> None:
        for text in self._texts[:20]:
            listener.wait_for(_submit(self._queue, [text])[0])
        lone_s = []
        for text in self._texts[20:220]:
            began_s = time.perf_counter()
            lone_s.append(listener.wait_for(_submit(self._queue, [text])[0]) - began_s)
            time.sleep(0.002)
        self.lone_ms = median(lone_s) * 1e3
        self._say("single requests measured")

    def _open_loop(self, listener: ResultListener) -> None:
        rate, due_s = self._sizes.rate, dict[str, float]()
        from_s = time.perf_counter()
        for number in range(int(rate * self._sizes.seconds)):
            at_s = from_s + number / rate
            time.sleep(max(0.0, at_s - time.perf_counter()))
            due_s[_submit(self._queue, [self._texts[number % len(self._texts)]])[0]] = at_s
        self.open_loop_ms = [(listener.wait_for(id) - at_s) * 1e3 for id, at_s in due_s.items()]


def _submit(queue: RedisQueue, texts: list[str]) -> list[str]:
    submissions = [
        Submission(
            make_id(SECRET, "bench"),
            orjson.dumps({"model": MODEL, "input": text, "parameters": {"truncate": True}}),
            cost_tokens=max(1, len(text) // 4),
        )
        for text in texts
    ]
    return queue.submit(submissions, flow="bench:normal", weight=4.0, max_depth=1 << 40, max_bytes=1 << 50).ids
