"""``windrow bench record --engine``: records a run of any configured model through the queue, without HTTP.

A worker process serves the model as in production, on a Redis of its own. Requests are submitted at their arrival times
(open loop), and their results are read after the last one.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from redis import Redis

from windrow.bench.compare.queue_users import NO_LIMIT, SECRET
from windrow.bench.compare.run import Contender, Plan, worker
from windrow.bench.compare.worker import SEQUENCE_TOKENS
from windrow.bench.generation_load import make_load
from windrow.bench.programs import BenchFailed, Check, own_redis
from windrow.bench.record.load import WARM, Load, about_device, queue_s, recorded, send_when_due
from windrow.lab.costs.fitting import TimedStep
from windrow.lab.measure.recording import Recording
from windrow.lab.measure.run_file import rebased
from windrow.lab.measure.step_recording import GenerationRecording, RecordedAnswer
from windrow.lab.sample_texts import mixed_texts
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.generation import GenerationPolicy
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.ids import make_id
from windrow.stack.supervisor import Interrupts

if TYPE_CHECKING:
    from windrow.worker.engines.base import EngineInfo

#: Time limit for all results after the last submit, in seconds.
END_S = 300.0
LOOK_S = 0.05
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: its time of submission, and its result."""

    sent_s: float
    metrics: Mapping[str, Any]
    output: Any


def record_engine(
    name: str, settings: ModelSettings, load: Load, scale: float, say: Say
) -> Recording | GenerationRecording:
    """Serve the model ``name``, send the load, and return the run; for text generation, ``scale`` multiplies lengths.

    Raises `BenchFailed` if a request does not succeed.
    """
    generates, count = settings.task == "generate", WARM + load.requests
    calls = _asks(name, settings, count, scale) if generates else _texts(count)
    payloads = [orjson.dumps({"model": name, **call}) for call in calls]
    with tempfile.TemporaryDirectory(prefix="windrow-bench-") as made, Interrupts() as interrupts:
        folder, steps = Path(made), Path(made) / "steps.jsonl"
        plan = _plan(name, settings, steps if generates else None)
        with (
            own_redis(folder, interrupts, durable=False) as url,
            Redis.from_url(url) as redis,
            worker(plan, url, folder, interrupts) as check,
        ):
            queue = RedisQueue(redis, name)
            (heartbeat,) = queue.workers(within_s=END_S).values()
            info = asdict(heartbeat)
            say(f"{name} is loaded on {info['device']}")
            _send(queue, payloads[:WARM], [0.0] * WARM, check)
            warm_steps = len(_read_steps(steps)) if generates else 0
            say(load.describe())
            answered = _send(queue, payloads[WARM:], load.due_s(), check)
        about = load.about(name) | about_device(info["device"])
        if generates:
            return _generation(settings, about, info, answered, _read_steps(steps)[warm_steps:])
    return _rows(settings, about, info, answered)


def _plan(name: str, settings: ModelSettings, steps: Path | None) -> Plan:
    engine = {
        "kind": "rows" if steps is None else "steps", "name": name,
        "settings": settings.model_dump(mode="json", exclude_unset=True),
        "steps": None if steps is None else str(steps),
    }  # fmt: skip
    contender = Contender(name, settings.strategy, settings.max_batch_size)
    max_wait_s = settings.max_wait_s
    return Plan([contender], engine, None if max_wait_s is None else max_wait_s * 1e3, 1, 1)


def _texts(count: int) -> list[dict[str, Any]]:
    return [{"input": text, "parameters": {"truncate": True}} for text in mixed_texts(count)]


def _asks(name: str, settings: ModelSettings, count: int, scale: float) -> list[dict[str, Any]]:
    """Return prompts of random tokens, which share no prefix, with exact answer lengths."""
    limit = load_text_limit(settings.source, settings.max_input_tokens)
    asks = make_load(count, limit.tokenizer.get_vocab_size(), scale)
    longest = max(len(ask.ids) + ask.tokens for ask in asks)
    cache_tokens = settings.cache_tokens or SEQUENCE_TOKENS * settings.max_batch_size
    if longest > (most := min(limit.max_input_tokens, cache_tokens)):
        raise ValueError(
            f"prompts and answers of up to {longest} tokens; {name} has room for {most}: takes a --scale below "
            f"{scale * most / longest:.2f}"
        )
    return [
        {"input": {"prompt_ids": ask.ids}, "parameters": {"max_tokens": ask.tokens, "ignore_eos": True}} for ask in asks
    ]


def _send(queue: RedisQueue, payloads: Sequence[bytes], due_s: Sequence[float], check: Check) -> list[Answered]:
    """Submit each request when it is due, wait until all have finished, and read the results."""

    def submit(payload: bytes) -> tuple[str, float]:
        submission, now_s = Submission(make_id(SECRET, "bench"), payload), time.monotonic()
        queue.submit([submission], flow="bench:normal", weight=1.0, max_depth=NO_LIMIT, max_bytes=NO_LIMIT)
        return submission.id, now_s

    sent = send_when_due(submit, payloads, due_s, check)
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


def _rows(
    settings: ModelSettings, about: Mapping[str, Any], info: Mapping[str, Any], answered: Sequence[Answered]
) -> Recording:
    from windrow.worker.engines.loading import batch_limits

    requests = [recorded(one.sent_s, one.metrics) for one in answered]
    # The strategy in use, which may differ from the requested one.
    policy = Policy(info["strategy"], batch_limits(settings, _engine_info(info)), settings.max_wait_s)
    return Recording(policy, 1, about, rebased(requests))


def _generation(
    settings: ModelSettings,
    about: Mapping[str, Any],
    info: Mapping[str, Any],
    answered: Sequence[Answered],
    steps: Sequence[TimedStep],
) -> GenerationRecording:
    from windrow.lab.tune.step_timing import runs_of

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
            queue_s=queue_s(one.metrics),
            first_s=one.metrics["time_to_first_token_ms"] / 1e3,
            latency_s=one.metrics["total_ms"] / 1e3,
        )
        for one in answered
    ]
    return GenerationRecording(policy, 1, runs_of(_engine_info(info)), about, rebased(rows), steps)


def _engine_info(heartbeat: Mapping[str, Any]) -> EngineInfo:
    from windrow.worker.engines.base import EngineInfo

    return EngineInfo(**{name: heartbeat[name] for name in EngineInfo.__dataclass_fields__ if name in heartbeat})


def _read_steps(path: Path) -> list[TimedStep]:
    """Return the step times that the worker has written so far."""
    return [TimedStep(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
