"""``windrow bench encoder``: a BERT of random weights through the queue, beside the device alone, in one run."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from scheduler.queue import RedisQueue, Submission, finished_channel
from scheduler.queue.ids import make_id
from scheduler.queue.keys import MAX_REQUESTS_PER_CALL, read_announcement
from scheduler.settings import DEFAULT_MODELS
from scheduler.sources import resolve_source
from windrow.bench.encoder_worker import MODEL, READY_KEY, STOP_KEY
from windrow.bench.programs import check_interrupts, own_redis, run_part
from windrow.bench.stats import median, percentile
from windrow.bench.workload import bench_environ
from windrow.demo.texts import mixed_texts
from windrow.supervise import Interrupts

Say = Callable[[str], None]
SECRET = b"of a benchmark"
TARGETS = {"ratio": 0.9, "busy": 0.95, "lone_ms": 2.0, "open_p99_ms": 25.0, "padding": 1.02}
START_S = 300.0


def run_encoder(
    items: int, batch_size: int, batch_tokens: int, layers: int, rate: float, seconds: float, say: Say
) -> dict[str, Any]:
    """Measure everything; ``figures`` are rows of ``name, value, unit, target``."""
    with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="windrow-bench-") as name:
        folder = Path(name)
        model = {
            "task": "classify", "source": str(make_bert(folder / "bert", layers)), "strategy": "packed",
            "max_batch_size": batch_size, "max_batch_tokens": batch_tokens,
        }  # fmt: skip
        texts = mixed_texts(20_000)
        with own_redis(folder, interrupts, durable=False) as url, Redis.from_url(url) as redis:
            spec = {"url": url, "model": model, "texts": texts, "items": items, "seconds": seconds}
            asked: dict[str, Any] = {}
            client = threading.Thread(target=ask, args=(redis, texts, items, rate, seconds, asked, say), daemon=True)
            client.start()
            report = run_part(
                "encoder_worker", spec, folder, bench_environ(folder), lambda: check_interrupts(interrupts)
            )
            client.join()
    return report | asked | {"figures": figures(report | asked, rate)}


def figures(report: dict[str, Any], rate: float) -> list[dict[str, Any]]:
    """Rows for the table."""
    bound_per_s = (report["bound_per_s"] + report["bound_after_per_s"]) / 2
    rows: list[tuple[str, float, str, str | None]] = [
        ("the device alone, before", report["bound_per_s"], "texts/s", None),
        ("the device alone, after", report["bound_after_per_s"], "texts/s", None),
        ("through the queue", report["through_queue_per_s"], "texts/s", None),
        ("ratio", report["through_queue_per_s"] / bound_per_s, "x", f">= {TARGETS['ratio']}"),
        ("device busy", report["device_busy_ratio"], "", f">= {TARGETS['busy']}"),
        ("tokens computed over tokens asked", report["tokens_over_asked"], "x", f"<= {TARGETS['padding']}"),
        ("a lone call of the engine, p50", report["lone_call_ms"], "ms", None),
        ("a lone request, queue to result, p50", report["lone_ms"], "ms", None),
        ("difference", report["lone_ms"] - report["lone_call_ms"], "ms", f"<= {TARGETS['lone_ms']:g}"),
        (f"{rate:g} requests/s, open loop, p50", report["open_p50_ms"], "ms", None),
        (f"{rate:g} requests/s, open loop, p99", report["open_p99_ms"], "ms", f"<= {TARGETS['open_p99_ms']:g}"),
        ("model loaded, checked and captured in", report["load_s"], "s", None),
        ("relative error against float32", report["engine"]["relative_error"] or 0.0, "", None),
    ]
    digits = {"texts/s": 0, "": 4}
    return [
        {"name": name, "value": value, "unit": unit, "target": target, "digits": digits.get(unit, 3)}
        for name, value, unit, target in rows
    ]


def make_bert(folder: Path, layers: int) -> Path:
    """A classifier of BERT-base's shape with random weights, and the tokenizer of the installed model."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(num_hidden_layers=layers, num_labels=2)).save_pretrained(folder)
    shutil.copy(resolve_source(DEFAULT_MODELS["minilm"]["source"], weights=False) / "tokenizer.json", folder)
    return folder


def ask(
    redis: Redis, texts: list[str], items: int, rate: float, seconds: float, asked: dict[str, Any], say: Say
) -> None:
    """Fill the queue, wait for its end, then send one at a time, then at a fixed rate."""
    queue = RedisQueue(redis, MODEL)
    try:
        for start in range(0, items, MAX_REQUESTS_PER_CALL):
            _submit(queue, [texts[number % len(texts)] for number in range(start, min(items, start + 1000))])
        end_s = time.monotonic() + START_S
        while not redis.exists(READY_KEY):
            if time.monotonic() > end_s:
                return
            time.sleep(0.1)
        say("model loaded, bound measured")
        while (depth := queue.depth()).waiting or depth.running:
            time.sleep(0.05)
        say("the queue was emptied")
        with Ears(redis) as ears:
            for text in texts[:20]:
                ears.wait_for(_submit(queue, [text])[0])
            lone_s = []
            for text in texts[20:220]:
                began_s = time.perf_counter()
                lone_s.append(ears.wait_for(_submit(queue, [text])[0]) - began_s)
                time.sleep(0.002)
            asked["lone_ms"] = median(lone_s) * 1e3
            say("asked one by one")
            late_s = _open_loop(queue, ears, texts, rate, seconds)
        asked["open_p50_ms"] = percentile(late_s, 0.5) * 1e3
        asked["open_p99_ms"] = percentile(late_s, 0.99) * 1e3
    finally:
        redis.set(STOP_KEY, 1)


def _open_loop(queue: RedisQueue, ears: Ears, texts: list[str], rate: float, seconds: float) -> list[float]:
    """Send at a fixed rate whatever comes back; from when each was due to when its result was announced."""
    due_s: dict[str, float] = {}
    from_s = time.perf_counter()
    for number in range(int(rate * seconds)):
        at_s = from_s + number / rate
        time.sleep(max(0.0, at_s - time.perf_counter()))
        due_s[_submit(queue, [texts[number % len(texts)]])[0]] = at_s
    return [ears.wait_for(id) - at_s for id, at_s in due_s.items()]


def _submit(queue: RedisQueue, texts: list[str]) -> list[str]:
    submissions = [
        Submission(
            make_id(SECRET, "bench"),
            orjson.dumps({"model": MODEL, "input": text, "parameters": {"truncate": True}}),
            cost_tokens=max(1, len(text) // 4),
        )
        for text in texts
    ]
    return queue.submit(submissions, flow="bench:normal", weight=4.0, max_depth=1 << 40, max_bytes=1 << 50)


class Ears:
    """Notes when each result is announced."""

    def __init__(self, redis: Redis) -> None:
        self._messages = redis.pubsub()
        self._heard_s: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stops = False

    def __enter__(self) -> Ears:
        self._messages.subscribe(finished_channel(MODEL))
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops = True

    def wait_for(self, id: str) -> float:
        """When the result of ``id`` was announced, `time.perf_counter`; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: id in self._heard_s, timeout=60):
                raise TimeoutError(f"{id} did not end")
            return self._heard_s.pop(id)

    def _listen(self) -> None:
        while not self._stops:
            message: Any = self._messages.get_message(timeout=0.5)
            if message is not None and message["type"] == "message":
                now_s = time.perf_counter()
                with self._changed:
                    self._heard_s.update(dict.fromkeys(read_announcement(message["data"])[0], now_s))
                    self._changed.notify_all()
