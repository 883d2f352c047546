"""``windrow bench record``: records a run against a real server, request by request, for the laboratory.

Requests are sent at their arrival times (open loop) over one connection, without waiting, and their results are read
after the last one. That keeps the load generator from slowing down the server on the same machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from windrow.bench.programs import BenchFailed
from windrow.bench.record.load import WARM, Load, about_device, recorded, send_when_due
from windrow.bench.workload import BATCH_SIZE, MODEL, bench_environ, model_settings
from windrow.lab.measure.recording import Recorded, Recording
from windrow.lab.measure.run_file import rebased
from windrow.lab.sample_texts import mixed_texts
from windrow.lab.simulate.device import Policy
from windrow.scheduler.core.planning import BatchLimits
from windrow.stack.serve import Stack
from windrow.stack.supervisor import Interrupts

#: Time limit for each result, in seconds.
END_S = 60
Say = Callable[[str], None]


def record(load: Load, strategy: str, max_wait_s: float | None, say: Say) -> Recording:
    """Start a stack with the default model and these settings, send the requests, and return the run."""
    texts = mixed_texts(load.requests)
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
            say(load.describe())
            ids = send_when_due(lambda text: _submit(client, text), texts, load.due_s(), stack.check)
            ended = [_end(client, id) for id in ids]
    described = model["data"][0]
    # ``static`` pads to the longest input that the model accepts.
    longest = int(described.get("max_input_tokens") or settings.max_input_tokens or 512)
    limits = BatchLimits(BATCH_SIZE, settings.max_batch_tokens, settings.buckets, longest)
    about = load.about(MODEL) | about_device(described.get("device", "cpu"))
    return Recording(
        Policy(strategy, limits, max_wait_s), 1, about, rebased([_recorded(prediction) for prediction in ended])
    )


def _submit(client: httpx.Client, text: str) -> str:
    body = {"model": MODEL, "input": text, "parameters": {"truncate": True}}
    return str(client.post("/v1/predictions", json=body).raise_for_status().json()["id"])


def _end(client: httpx.Client, id: str) -> dict[str, Any]:
    ended: dict[str, Any] = client.get(f"/v1/predictions/{id}", params={"wait": END_S}).raise_for_status().json()
    if ended["status"] != "succeeded":
        raise BenchFailed(f"request {id} ended as {ended['status']}: {ended['error']}")
    return ended


def _recorded(prediction: Mapping[str, Any]) -> Recorded:
    return recorded(datetime.fromisoformat(prediction["created_at"]).timestamp(), prediction["metrics"])
