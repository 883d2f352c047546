"""``windrow bench encoder``: a BERT of random weights through the queue, beside the device alone, in one run."""

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
from windrow.bench.programs import BenchFailed, check_interrupts, own_redis, run_part
from windrow.bench.stats import median, percentile
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
SECRET = b"of a benchmark"
TARGETS = {"ratio": 0.9, "busy": 0.95, "lone_ms": 2.0, "open_p99_ms": 25.0, "padding": 1.02, "devices": 0.975}
START_S = 300.0


class Sizes(NamedTuple):
    """How much is measured."""

    #: Texts that wait in the queue, for each device.
    items: int
    batch_size: int
    batch_tokens: int
    layers: int
    #: Of a text, on average; 58 words are 63 tokens.
    words: float
    #: Processes a device.
    processes: int
    devices: int
    #: Times that the queue is emptied, by each number of devices.
    rounds: int
    #: Requests a second of the open loop.
    rate: float
    #: Length of the open loop and of the bounds, in seconds.
    seconds: float


class Emptied(NamedTuple):
    """One filled queue that ``devices`` emptied, `time.monotonic`."""

    devices: int
    items: int
    from_s: float
    to_s: float
    #: CPU time of Redis meanwhile, in seconds; it has one thread for commands.
    redis_cpu_s: float


def run_encoder(sizes: Sizes, say: Say) -> dict[str, Any]:
    """Measure everything; ``figures`` are rows of ``name, value, unit, target``."""
    names = visible_devices()
    if len(names) < sizes.devices:
        raise BenchFailed(f"it needs {sizes.devices} CUDA device(s), and this machine has {len(names)}")
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
            asking = Asking(redis, texts, sizes, say)
            client = threading.Thread(target=asking.run, daemon=True)
            client.start()

            def run_rank(rank: int) -> dict[str, Any]:
                (own := folder / str(rank)).mkdir()
                spec = shared | {"rank": rank, "seconds": sizes.seconds}
                report: dict[str, Any] = run_part(
                    "benchmarks.encoder.worker",
                    spec,
                    own,
                    bench_environ(own) | only,
                    lambda: check_interrupts(interrupts),
                )
                return report

            reports = list(pool.map(run_rank, range(ranks)))
            client.join()
            busy = [use.ratio(one.from_s, one.to_s, one.devices) for one in asking.emptied]
    return summarise(reports, asking, busy, sizes)


def summarise(
    reports: Sequence[dict[str, Any]], asking: Asking, busy: Sequence[float | None], sizes: Sizes
) -> dict[str, Any]:
    """The report, from those of the processes, first the one that measured the bound."""
    first = reports[0]
    bound_per_s = (first["bound_per_s"] + first["bound_after_per_s"]) / 2
    ended = sorted((at_s, count) for report in reports for at_s, count in report["ended"])
    rates: dict[int, list[float]] = {}
    for one in asking.emptied:
        rates.setdefault(one.devices, []).append(middle_rate(ended, one))
    tokens, asked = (sum(report[key] for report in reports) for key in ("tokens", "asked_tokens"))
    rows: list[tuple[str, float, str, str | None]] = [
        ("one device alone, before", first["bound_per_s"], "texts/s", None),
        ("one device alone, after", first["bound_after_per_s"], "texts/s", None),
        ("through the queue, one device", median(rates[1]), "texts/s", None),
        ("ratio", median(rates[1]) / bound_per_s, "x", f">= {TARGETS['ratio']}"),
    ]
    for devices, measured in rates.items():
        if devices > 1:
            ratio = median([more / one for more, one in zip(measured, rates[1], strict=True)])
            rows.append((f"through the queue, {devices} devices", median(measured), "texts/s", None))
            rows.append(("against one", ratio, "x", f">= {TARGETS['devices'] * devices:.4g}"))
    seen = [share for share, one in zip(busy, asking.emptied, strict=True) if share is not None and one.devices == 1]
    if seen:
        rows.append(("device busy while the queue was emptied", median(seen), "", f">= {TARGETS['busy']}"))
    use = [one.redis_cpu_s / (one.to_s - one.from_s) for one in asking.emptied if one.devices == sizes.devices]
    rows += [
        ("Redis busy meanwhile, of one core", median(use), "", None),
        ("tokens computed over tokens asked", tokens / asked, "x", f"<= {TARGETS['padding']}"),
        ("a lone call of the engine, p50", first["lone_call_ms"], "ms", None),
        ("a lone request, queue to result, p50", asking.lone_ms, "ms", None),
        ("difference", asking.lone_ms - first["lone_call_ms"], "ms", f"<= {TARGETS['lone_ms']:g}"),
        (f"{sizes.rate:g} requests/s, open loop, p50", percentile(asking.late_ms, 0.5), "ms", None),
        (f"{sizes.rate:g} requests/s, open loop, p99", percentile(asking.late_ms, 0.99), "ms",
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


def middle_rate(ended: Sequence[tuple[float, int]], emptied: Emptied) -> float:
    """Texts a second while the middle eight tenths of a queue were emptied: loops fill and empty at its ends.

    ``ended`` is when each pass was collected and how many texts it had, in order.
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
    """A classifier of BERT-base's shape with random weights, and the tokenizer of the installed model."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(num_hidden_layers=layers, num_labels=2)).save_pretrained(folder)
    shutil.copy(resolve_source(DEFAULT_MODELS["minilm"]["source"], weights=False) / "tokenizer.json", folder)
    return folder


class Asking:
    """The client: fills the queue and waits for its end, then sends one at a time, then at a fixed rate."""

    def __init__(self, redis: Redis, texts: list[str], sizes: Sizes, say: Say) -> None:
        self._redis, self._texts, self._sizes, self._say = redis, texts, sizes, say
        self._queue = RedisQueue(redis, MODEL)
        self.emptied: list[Emptied] = []
        self.lone_ms = 0.0
        #: From when each request of the open loop was due to when its result was announced.
        self.late_ms: list[float] = []

    def run(self) -> None:
        """All of it; says at the end that the processes may stop."""
        try:
            end_s = time.monotonic() + START_S
            while not self._redis.exists(READY_KEY):
                if time.monotonic() > end_s:
                    return
                time.sleep(0.1)
            self._say("models loaded, bound measured")
            for _ in range(self._sizes.rounds):
                for devices in range(1, self._sizes.devices + 1):
                    self._empty(devices)
            self._redis.set(DEVICES_KEY, 1)
            with ResultListener(self._redis, MODEL) as ears:
                self._one_by_one(ears)
                self._open_loop(ears)
        finally:
            self._redis.set(STOP_KEY, 1)

    def _empty(self, devices: int) -> None:
        items, texts = self._sizes.items * devices, self._texts
        self._redis.set(DEVICES_KEY, 0)
        time.sleep(2.5)  # claims that blocked have ended
        for start in range(0, items, MAX_REQUESTS_PER_CALL):
            end = min(items, start + MAX_REQUESTS_PER_CALL)
            _submit(self._queue, [texts[number % len(texts)] for number in range(start, end)])
        from_s, before_s = time.monotonic(), self._redis_cpu_s()
        self._redis.set(DEVICES_KEY, devices)
        while (depth := self._queue.depth()).waiting or depth.running:
            time.sleep(0.05)
        self.emptied.append(Emptied(devices, items, from_s, time.monotonic(), self._redis_cpu_s() - before_s))
        self._say(f"{devices} emptied a queue of {items:,}")

    def _redis_cpu_s(self) -> float:
        info: Any = self._redis.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def _one_by_one(self, ears: ResultListener) -> None:
        for text in self._texts[:20]:
            ears.wait_for(_submit(self._queue, [text])[0])
        lone_s = []
        for text in self._texts[20:220]:
            began_s = time.perf_counter()
            lone_s.append(ears.wait_for(_submit(self._queue, [text])[0]) - began_s)
            time.sleep(0.002)
        self.lone_ms = median(lone_s) * 1e3
        self._say("asked one by one")

    def _open_loop(self, ears: ResultListener) -> None:
        rate, due_s = self._sizes.rate, dict[str, float]()
        from_s = time.perf_counter()
        for number in range(int(rate * self._sizes.seconds)):
            at_s = from_s + number / rate
            time.sleep(max(0.0, at_s - time.perf_counter()))
            due_s[_submit(self._queue, [self._texts[number % len(self._texts)]])[0]] = at_s
        self.late_ms = [(ears.wait_for(id) - at_s) * 1e3 for id, at_s in due_s.items()]


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
