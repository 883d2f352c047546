"""``windrow bench record``: records a run against a real server, request by request, for the laboratory.

Requests are sent at their arrival times (open loop) over one connection, without waiting, and their results are read
after the last one. That keeps the load generator from slowing down the server on the same machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from windrow.bench.programs import BenchFailed
from windrow.bench.workload import BATCH_SIZE, MODEL, bench_environ, counted_texts, model_settings
from windrow.lab.measure.recording import Recorded, Recording
from windrow.lab.measure.run_file import rebased
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.workload import PATTERNS, draw_arrivals
from windrow.scheduler.core.planning import BatchLimits
from windrow.stack.serve import Stack
from windrow.stack.supervisor import Interrupts

#: Requests sent before the recording, so that everything is loaded and the worker knows its speed.
WARM = 40
#: Time limit for each result, in seconds.
END_S = 60
Say = Callable[[str], None]


def record(
    pattern: str, rate_per_s: float, requests: int, strategy: str, max_wait_s: float | None, seed: int, say: Say
) -> Recording:
    """Start a stack with the default model and these settings, send the requests, and return the run."""
    texts, tokens = counted_texts(requests)
    arrival_s = draw_arrivals(PATTERNS[pattern], rate_per_s, requests, np.random.default_rng(seed))
    settings = model_settings()
    chosen = {"STRATEGY": strategy, "MAX_WAIT_MS": "auto" if max_wait_s is None else f"{max_wait_s * 1e3:g}"}
    with tempfile.TemporaryDirectory(prefix="windrow-bench-") as name, Interrupts() as interrupts:
        environ = bench_environ(Path(name)) | {f"WINDROW_MODELS__{MODEL.upper()}__{key}": chosen[key] for key in chosen}
        with (
            Stack(Path(name), environ, interrupts, say) as stack,
            httpx.Client(base_url=stack.url, timeout=90) as client,
        ):
            model = client.get("/v1/models").raise_for_status().json()
            for text in texts[:WARM]:
                _end(client, _submit(client, text))
            say(f"{requests} requests, {pattern}, {rate_per_s:g} per second")
            ids = _send(client, texts, arrival_s, stack.check)
            ended = [_end(client, id) for id in ids]
    limits = BatchLimits(BATCH_SIZE, settings.max_batch_tokens, settings.buckets, _longest(model))
    # A CPU worker runs each batch on all of its cores.
    device = model["data"][0].get("device", "cpu")
    lanes = len(os.sched_getaffinity(0)) if device == "cpu" else 1
    about = {
        "model": MODEL, "pattern": pattern, "rate_per_s": rate_per_s, "seed": seed, "device": device, "lanes": lanes,
    }  # fmt: skip
    return Recording(Policy(strategy, limits, max_wait_s), 1, about, _recorded(ended, tokens))


def _submit(client: httpx.Client, text: str) -> str:
    body = {"model": MODEL, "input": text, "parameters": {"truncate": True}}
    return str(client.post("/v1/predictions", json=body).raise_for_status().json()["id"])


def _send(
    client: httpx.Client, texts: Sequence[str], arrival_s: Sequence[float], check: Callable[[], None]
) -> list[str]:
    ids = []
    from_s = time.monotonic()
    for text, at_s in zip(texts, arrival_s, strict=True):
        check()
        time.sleep(max(0.0, from_s + at_s - time.monotonic()))
        ids.append(_submit(client, text))
    return ids


def _end(client: httpx.Client, id: str) -> dict[str, Any]:
    ended: dict[str, Any] = client.get(f"/v1/predictions/{id}", params={"wait": END_S}).raise_for_status().json()
    if ended["status"] != "succeeded":
        raise BenchFailed(f"request {id} ended as {ended['status']}: {ended['error']}")
    return ended


def _longest(models: dict[str, Any]) -> int:
    """Return the length that ``static`` pads to: the longest input that the model accepts."""
    return int(models["data"][0].get("max_input_tokens") or model_settings().max_input_tokens or 512)


def _recorded(ended: Sequence[dict[str, Any]], tokens: Sequence[int]) -> list[Recorded]:
    created_s = [datetime.fromisoformat(one["created_at"]).timestamp() for one in ended]
    rows = []
    for one, length, at_s in zip(ended, tokens, created_s, strict=True):
        metrics = one["metrics"]
        rows.append(
            Recorded(
                arrival_s=at_s,
                tokens=length,
                queue_s=(metrics["queue_ms"] + metrics["batch_wait_ms"]) / 1e3,
                latency_s=metrics["total_ms"] / 1e3,
                pass_id=metrics["batch_id"],
                pass_s=metrics["compute_ms"] / 1e3,
                pass_size=metrics["batch_size"],
                pass_tokens=metrics["batch_tokens"],
            )
        )
    return rebased(rows)
