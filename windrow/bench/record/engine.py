"""``windrow bench record --engine``: records a run of any configured model through the queue, without HTTP.

A worker process serves the model as in production, on a Redis of its own. Requests are submitted at their arrival times
(open loop), and their results are read after the last one.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from redis import Redis

from windrow.bench.compare.queue_users import NO_LIMIT, SECRET
from windrow.bench.compare.run import Contender, Plan, worker
from windrow.bench.compare.worker import SEQUENCE_TOKENS
from windrow.bench.generate_model import make_load
from windrow.bench.programs import BenchFailed, Check, own_redis
from windrow.lab.costs.fitting import TimedStep
from windrow.lab.measure.recording import Recorded, Recording
from windrow.lab.measure.run_file import rebased
from windrow.lab.measure.step_recording import GenerationRecording, RecordedAnswer
from windrow.lab.sample_texts import mixed_texts
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.generation import GenerationPolicy
from windrow.lab.simulate.workload import PATTERNS, draw_arrivals
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.ids import make_id
from windrow.stack.supervisor import Interrupts

#: Requests sent before the recording, so that everything is loaded and the worker knows its speed.
WARM = 40
#: Time limit for all results after the last submit, in seconds.
END_S = 300.0
LOOK_S = 0.05
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """The model, and the requests to send."""

    model: str
    settings: ModelSettings
    pattern: str
    rate_per_s: float
    requests: int
    seed: int
    #: Text generation only: factor on the lengths of prompts and answers.
    scale: float = 1.0

    def about(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first line of the recording."""
        # A CPU worker runs each batch on all of its cores.
        lanes = len(os.sched_getaffinity(0)) if info["device"] == "cpu" else 1
        return {
            "model": self.model, "pattern": self.pattern, "rate_per_s": self.rate_per_s, "seed": self.seed,
            "device": info["device"], "lanes": lanes,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: its time of submission, and its result."""

    sent_s: float
    metrics: Mapping[str, Any]
    output: Any


def record_engine(load: Load, say: Say) -> Recording | GenerationRecording:
    """Serve the model, send the load, and return the run; raises `BenchFailed` if a request does not succeed."""
    generates = load.settings.task == "generate"
    payloads = [orjson.dumps({"model": load.model, **call}) for call in (_asks(load) if generates else _texts(load))]
    with tempfile.TemporaryDirectory(prefix="windrow-bench-") as name, Interrupts() as interrupts:
        folder, steps = Path(name), Path(name) / "steps.jsonl"
        plan = _plan(load, steps if generates else None)
        with (
            own_redis(folder, interrupts, durable=False) as url,
            Redis.from_url(url) as redis,
            worker(plan, url, folder, interrupts) as check,
        ):
            queue = RedisQueue(redis, load.model)
            (heartbeat,) = queue.workers(within_s=END_S).values()
            info = asdict(heartbeat)
            say(f"{load.model} is loaded on {info['device']}")
            _send(queue, payloads[:WARM], [0.0] * WARM, check)
            warm_steps = len(_read_steps(steps)) if generates else 0
            say(f"{load.requests} requests, {load.pattern}, {load.rate_per_s:g} per second")
            due_s = draw_arrivals(
                PATTERNS[load.pattern], load.rate_per_s, load.requests, np.random.default_rng(load.seed)
            )
            answered = _send(queue, payloads[WARM:], due_s, check)
        if generates:
            return _generation(load, info, answered, _read_steps(steps)[warm_steps:])
    return _rows(load, info, answered)


def _plan(load: Load, steps: Path | None) -> Plan:
    settings = load.settings
    engine = {
        "kind": "rows" if steps is None else "steps", "name": load.model,
        "settings": settings.model_dump(mode="json", exclude_unset=True),
        "steps": None if steps is None else str(steps),
    }  # fmt: skip
    contender = Contender(load.model, settings.strategy, settings.max_batch_size)
    max_wait_s = settings.max_wait_s
    return Plan([contender], engine, None if max_wait_s is None else max_wait_s * 1e3, 1, 1)


def _texts(load: Load) -> list[dict[str, Any]]:
    return [{"input": text, "parameters": {"truncate": True}} for text in mixed_texts(WARM + load.requests)]


def _asks(load: Load) -> list[dict[str, Any]]:
    """Return prompts of random tokens, which share no prefix, with exact answer lengths."""
    limit = load_text_limit(load.settings.source, load.settings.max_input_tokens)
    asks = make_load(WARM + load.requests, limit.tokenizer.get_vocab_size(), load.scale)
    longest = max(len(ask.ids) + ask.tokens for ask in asks)
    cache_tokens = load.settings.cache_tokens or SEQUENCE_TOKENS * load.settings.max_batch_size
    if longest > (most := min(limit.max_input_tokens, cache_tokens)):
        raise ValueError(
            f"prompts and answers of up to {longest} tokens; {load.model} has room for {most}: takes a --scale below "
            f"{load.scale * most / longest:.2f}"
        )
    return [
        {"input": {"prompt_ids": ask.ids}, "parameters": {"max_tokens": ask.tokens, "ignore_eos": True}} for ask in asks
    ]


def _send(queue: RedisQueue, payloads: Sequence[bytes], due_s: Sequence[float], check: Check) -> list[Answered]:
    """Submit each request when it is due, wait until all have finished, and read the results."""
    sent: list[tuple[str, float]] = []
    from_s = time.perf_counter()
    for payload, at_s in zip(payloads, due_s, strict=True):
        while (early_s := from_s + at_s - time.perf_counter()) > 0:
            time.sleep(min(early_s, 1.0))
            check()
        submission = Submission(make_id(SECRET, "bench"), payload)
        sent.append((submission.id, time.perf_counter() - from_s))
        queue.submit([submission], flow="bench:normal", weight=1.0, max_depth=NO_LIMIT, max_bytes=NO_LIMIT)
    end_s = time.monotonic() + END_S
    while (depth := queue.depth()).waiting or depth.running:
        check()
        if time.monotonic() > end_s:
            raise BenchFailed(f"{depth.waiting + depth.running} requests did not finish within {END_S:g} s")
        time.sleep(LOOK_S)
    return [_answer(queue, id, sent_s) for id, sent_s in sent]


def _answer(queue: RedisQueue, id: str, sent_s: float) -> Answered:
    found = queue.lookup(id)
    if found is None or found.status != "succeeded":
        raise BenchFailed(f"request {id} ended as {found and found.status}: {found and found.error}")
    return Answered(sent_s, found.metrics or {}, found.output)


def _rows(load: Load, info: Mapping[str, Any], answered: Sequence[Answered]) -> Recording:
    from windrow.worker.engines.base import EngineInfo
    from windrow.worker.engines.loading import batch_limits

    known = {name: info[name] for name in EngineInfo.__dataclass_fields__ if name in info}
    limits: BatchLimits = batch_limits(load.settings, EngineInfo(**known))
    rows = [
        Recorded(
            arrival_s=one.sent_s,
            tokens=one.metrics["tokens"],
            queue_s=(one.metrics["queue_ms"] + one.metrics["batch_wait_ms"]) / 1e3,
            latency_s=one.metrics["total_ms"] / 1e3,
            pass_id=one.metrics["batch_id"],
            pass_s=one.metrics["compute_ms"] / 1e3,
            pass_size=one.metrics["batch_size"],
            pass_tokens=one.metrics["batch_tokens"],
        )
        for one in answered
    ]
    # The strategy in use, which may differ from the requested one.
    return Recording(Policy(info["strategy"], limits, load.settings.max_wait_s), 1, load.about(info), rebased(rows))


def _generation(
    load: Load, info: Mapping[str, Any], answered: Sequence[Answered], steps: Sequence[TimedStep]
) -> GenerationRecording:
    from windrow.lab.tune.step_timing import runs_of
    from windrow.worker.engines.base import EngineInfo

    settings = load.settings
    # The engine always prefills in chunks beside sequences that decode.
    name = "chunked" if settings.strategy == "continuous" else settings.strategy
    policy = GenerationPolicy(
        name, info["max_sequences"], settings.max_batch_tokens, info["pages"] * info["page_tokens"],
        info["page_tokens"], settings.prefill_chunk_tokens,
    )  # fmt: skip
    rows = [
        RecordedAnswer(
            arrival_s=one.sent_s,
            tokens=one.output["usage"]["prompt_tokens"],
            output_tokens=one.output["usage"]["completion_tokens"],
            queue_s=(one.metrics["queue_ms"] + one.metrics["batch_wait_ms"]) / 1e3,
            first_s=one.metrics["time_to_first_token_ms"] / 1e3,
            latency_s=one.metrics["total_ms"] / 1e3,
        )
        for one in answered
    ]
    known = {name: info[name] for name in EngineInfo.__dataclass_fields__ if name in info}
    return GenerationRecording(policy, 1, runs_of(EngineInfo(**known)), load.about(info), rebased(rows), steps)


def _read_steps(path: Path) -> list[TimedStep]:
    """Return the step times that the worker has written so far."""
    return [TimedStep(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
