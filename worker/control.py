"""``celery -A worker inspect models|batching|inflight`` and ``celery -A worker control drain|resume``.

The worker's parent process answers, from shared memory and Redis: at once, whatever the pool is doing.
"""

from __future__ import annotations

from typing import Any

import orjson
from celery.worker.control import control_command, inspect_command

from scheduler.core.liveness import HEARD_WITHIN_S
from scheduler.queue import RedisQueue
from scheduler.queue.connection import connect
from scheduler.settings import Settings
from worker.stopping import DRAINED
from worker.vitals import read_slot


@inspect_command()
def inflight(state: Any, **_: Any) -> dict[str, Any]:
    """What each pool process holds, and for how many seconds it has been at the same pass."""
    slots = {}
    for slot in range(state.consumer.controller.concurrency):
        reading = read_slot(slot)
        slots[str(slot)] = {
            "pid": int(reading.pid) or None,
            "loaded": reading.beats > 0,
            "held": int(reading.held),
            "busy_s": round(reading.busy_s, 1),
        }
    return {"drained": bool(DRAINED.value), "slots": slots}


@inspect_command()
def models(state: Any, **_: Any) -> dict[str, Any]:
    """The models that this worker's loops serve, as each loop describes them."""
    from worker.celery import settings

    return _said(settings, state.hostname)


@inspect_command()
def batching(state: Any, **_: Any) -> dict[str, Any]:
    """How requests of each model are put together, as the settings say, and the window that each loop uses now."""
    from worker.celery import settings

    shown = {"strategy", "max_batch_size", "max_batch_tokens", "max_wait_ms", "buckets"}
    said = _said(settings, state.hostname)
    return {
        name: model.model_dump(mode="json", include=shown)
        | {"wait_ms": {slot: info.get("wait_ms") for slot, info in said[name].items()}}
        for name, model in settings.models.items()
    }


def _said(settings: Settings, hostname: str) -> dict[str, dict[str, Any]]:
    """Model -> slot -> what the loop of this worker in that slot says of it."""
    with connect(settings.redis_url) as redis:
        return {
            model: {
                name.rpartition("/")[2]: orjson.loads(info)
                for name, info in RedisQueue(redis, model).workers(within_s=HEARD_WITHIN_S).items()
                if name.rpartition("/")[0] == hostname
            }
            for model in settings.models
        }


@control_command()
def drain(state: Any, **_: Any) -> dict[str, str]:
    """Claim nothing more; what is held is ended. Other workers go on."""
    DRAINED.value = 1
    return {"ok": "claiming no more"}


@control_command()
def resume(state: Any, **_: Any) -> dict[str, str]:
    """Claim again."""
    DRAINED.value = 0
    return {"ok": "claiming again"}
