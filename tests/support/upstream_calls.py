"""Requests to an upstream engine, run until they finish."""

from __future__ import annotations

import time
from typing import Any

from tests.support.scripted_server import ScriptedServer
from windrow.errors import WindrowError
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Failed
from windrow.worker.engines.base import Delta, Prepared
from windrow.worker.engines.upstream.engine import UpstreamEngine

CHAT = {"messages": [{"role": "user", "content": "dry hay"}]}


def new_engine(server: ScriptedServer, **more: Any) -> UpstreamEngine:
    table = {"task": "upstream", "url": f"http://127.0.0.1:{server.port}/v1", "upstream_model": "theirs"}
    return UpstreamEngine("ours", ModelSettings.model_validate(table | more))


def add(engine: UpstreamEngine, id: str, value: object = CHAT, **parameters: Any) -> None:
    (prepared,) = engine.prepare([value], [parameters])
    assert isinstance(prepared, Prepared), prepared
    engine.add(id, prepared)


def run(engine: UpstreamEngine, *ids: str) -> dict[str, list[Delta]]:
    """Step until all requests have ended; return the deltas of each."""
    deltas_of: dict[str, list[Delta]] = {id: [] for id in ids}
    end_s = time.monotonic() + 30
    while not all(deltas and deltas[-1].outcome for deltas in deltas_of.values()):
        assert time.monotonic() < end_s, deltas_of
        handle = engine.step()
        if handle is None:
            engine.wait(0.5)
        else:
            for delta in engine.collect(handle):
                deltas_of[delta.id].append(delta)
    return deltas_of


def failure(engine: UpstreamEngine) -> WindrowError:
    add(engine, "a")
    outcome = run(engine, "a")["a"][-1].outcome
    assert isinstance(outcome, Failed)
    return outcome.error
