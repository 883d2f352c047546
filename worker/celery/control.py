"""``celery -A windrow.worker inspect models|batching|inflight`` and ``control drain|resume|set_batching|reload_model``.

The worker's parent process answers, from shared memory and Redis: at once, whatever the pool is doing.
"""

from __future__ import annotations

from typing import Any

import orjson
from celery.worker.control import control_command, inspect_command
from pydantic import ValidationError
from redis.exceptions import RedisError

from windrow.errors import InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.load_failures import read_failures
from windrow.scheduler.tasks import TASKS
from windrow.worker.celery.supervision import serves_predictions
from windrow.worker.process import model_requests as orders
from windrow.worker.process.model_requests import Batching, read_model_requests
from windrow.worker.process.progress import read_slot
from windrow.worker.process.stopping import DRAINED

NOTHING_HERE = "this worker serves no models"


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
    """The models that this worker's loops serve, as each loop describes them, and why others could not be loaded."""
    if not serves_predictions(state.app):
        return {"ok": NOTHING_HERE}
    from windrow.worker.celery.app import settings

    with connect(settings.redis_url) as redis:
        failures = {
            model: {
                name.rpartition("/")[2]: {"failed": failure.reason}
                for name, failure in read_failures(redis, model).items()
                if name.rpartition("/")[0] == state.hostname
            }
            for model in settings.models
        }
    return {model: failures[model] | said for model, said in _said(settings, state.hostname).items()}


@inspect_command()
def batching(state: Any, **_: Any) -> dict[str, Any]:
    """How requests of each model are put together, as it was set, and the window that each loop uses now."""
    from windrow.worker.celery.app import settings

    shown = {"strategy", "max_batch_size", "max_batch_tokens", "max_wait_ms", "buckets"}
    said, asked = _said(settings, state.hostname), read_model_requests().batching
    return {
        name: model.model_dump(mode="json", include=shown)
        | _shown(asked.get(name))
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


@control_command(
    args=[("model", str), ("max_batch_size", str), ("max_wait_ms", str)],
    signature="<model> <max_batch_size> <max_wait_ms or auto>",
)
def set_batching(
    state: Any, model: str | None = None, max_batch_size: Any = None, max_wait_ms: Any = None, **_: Any
) -> dict[str, str]:
    """Put rows of a model together otherwise, until this worker ends."""
    if not serves_predictions(state.app):
        return {"ok": NOTHING_HERE}
    from windrow.worker.celery.app import settings

    try:
        known = _known_model(settings, model)
        batching = read_batching(known, max_batch_size, max_wait_ms)
        if batching.max_batch_size > known.max_batch_size and _is_captured(settings, state.hostname, str(model)):
            raise InvalidInput(f"max_batch_size: its passes are captured for at most {known.max_batch_size}")
    except (InvalidInput, RedisError) as error:
        return {"error": f"set_batching: {error}"}
    orders.set_batching(str(model), batching)
    return {"ok": f"{model}: max_batch_size {max_batch_size}, max_wait_ms {max_wait_ms}"}


@control_command(args=[("model", str)], signature="<model>")
def reload_model(state: Any, model: str | None = None, **_: Any) -> dict[str, str]:
    """Load a model anew from its files; where that fails, the one that is there goes on."""
    if not serves_predictions(state.app):
        return {"ok": NOTHING_HERE}
    from windrow.worker.celery.app import settings

    try:
        if _known_model(settings, model).task == "upstream":
            raise InvalidInput(f"model {model!r} is another server's: nothing of it is loaded here")
        if not _said(settings, state.hostname)[str(model)]:
            raise InvalidInput(
                f"no loop of this worker serves {model!r}; once its files are mended, restart the worker"
            )
    except (InvalidInput, RedisError) as error:
        return {"error": f"reload_model: {error}"}
    orders.request_reload(str(model))
    return {"ok": f"{model} is being loaded anew; reload_note of `inspect models` says what became of it"}


def read_batching(model: ModelSettings, max_batch_size: object, max_wait_ms: object) -> Batching:
    """Check what rows of ``model`` are to be; raise `InvalidInput` naming what it takes."""
    if TASKS[model.task].streams:
        raise InvalidInput("a model that generates has its batch from when it is loaded; set it in windrow.toml")
    try:
        wished = ModelSettings.model_validate(
            {"task": model.task, "source": model.source, "max_batch_size": max_batch_size, "max_wait_ms": max_wait_ms}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        name, said = problem["loc"][0], problem["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{name}: {said} (got {problem['input']!r:.100})") from None
    return Batching(wished.max_batch_size, wished.max_wait_s)


def _known_model(settings: Settings, model: str | None) -> ModelSettings:
    if model is None or model not in settings.models:
        raise InvalidInput(f"model: there is none named {model!r}; there are {', '.join(settings.models)}")
    return settings.models[model]


def _is_captured(settings: Settings, hostname: str, model: str) -> bool:
    return any(info.get("is_captured") for info in _said(settings, hostname)[model].values())


def _shown(batching: Batching | None) -> dict[str, Any]:
    if batching is None:
        return {}
    wait_ms = "auto" if batching.max_wait_s is None else batching.max_wait_s * 1e3
    return {"max_batch_size": batching.max_batch_size, "max_wait_ms": wait_ms}


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
