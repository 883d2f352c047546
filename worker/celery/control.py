"""``celery -A windrow.worker inspect models|batching|inflight`` and ``control drain|resume|set_batching|reload_model``.

The worker's parent process answers from shared memory and Redis, so it answers at once, whatever the pool is doing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from celery.worker.control import control_command, inspect_command
from pydantic import ValidationError
from redis.exceptions import RedisError

from windrow.errors import InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.load_failures import read_failures
from windrow.scheduler.tasks import TASKS
from windrow.worker.celery.supervision import serves_predictions
from windrow.worker.celery.worker_settings import worker_settings
from windrow.worker.process import model_requests
from windrow.worker.process.model_requests import Batching, read_model_requests
from windrow.worker.process.progress import read_slot
from windrow.worker.process.stopping import DRAINED

NO_MODELS = "this worker serves no models"


@inspect_command()
def inflight(state: Any, **_: Any) -> dict[str, Any]:
    """Show how many requests each pool process holds, and for how long it has been running its current batch."""
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
    """Show the models of this worker as each pool process describes them, and why others could not be loaded."""
    if not serves_predictions(state.app):
        return {"ok": NO_MODELS}

    settings = worker_settings()
    with connect(settings.redis_url) as redis:
        failures = {
            model: {
                name.rpartition("/")[2]: {"failed": failure.reason}
                for name, failure in read_failures(redis, model).items()
                if name.rpartition("/")[0] == state.hostname
            }
            for model in settings.models
        }
    return {model: failures[model] | by_slot for model, by_slot in _heartbeats(state.hostname).items()}


@inspect_command()
def batching(state: Any, **_: Any) -> dict[str, Any]:
    """Show the batching settings of each model, and the window that each pool process uses now."""
    shown = {"strategy", "max_batch_size", "max_batch_tokens", "max_wait_ms", "buckets"}
    settings = worker_settings()
    heartbeats, requested = _heartbeats(state.hostname), read_model_requests().batching
    return {
        name: model.model_dump(mode="json", include=shown)
        | _shown(requested.get(name))
        | {"wait_ms": {slot: info.get("wait_ms") for slot, info in heartbeats[name].items()}}
        for name, model in settings.models.items()
    }


def _heartbeats(hostname: str) -> dict[str, dict[str, Any]]:
    """Return, by model and slot, the last heartbeat of this worker's pool processes."""
    settings = worker_settings()
    with connect(settings.redis_url) as redis:
        return {
            model: {
                name.rpartition("/")[2]: asdict(heartbeat)
                for name, heartbeat in RedisQueue(redis, model).workers(within_s=HEARD_WITHIN_S).items()
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
    """Change the batch limits of a model until this worker stops."""
    if not serves_predictions(state.app):
        return {"ok": NO_MODELS}

    try:
        known = _known_model(model)
        batching = read_batching(known, max_batch_size, max_wait_ms)
        if batching.max_batch_size > known.max_batch_size and _is_captured(state.hostname, str(model)):
            raise InvalidInput(
                f"max_batch_size {batching.max_batch_size}: the model's CUDA graphs were captured for at most "
                f"{known.max_batch_size}; raise it in windrow.toml and restart the worker"
            )
    except (InvalidInput, RedisError) as error:
        return {"error": f"set_batching: {error}"}
    model_requests.set_batching(str(model), batching)
    return {"ok": f"{model}: max_batch_size {max_batch_size}, max_wait_ms {max_wait_ms}"}


@control_command(args=[("model", str)], signature="<model>")
def reload_model(state: Any, model: str | None = None, **_: Any) -> dict[str, str]:
    """Load a model again from its files; if that fails, the loaded one stays in service."""
    if not serves_predictions(state.app):
        return {"ok": NO_MODELS}

    try:
        if _known_model(model).task == "upstream":
            raise InvalidInput(f"model {model!r} runs on another server; this worker has nothing to load")
        if not _heartbeats(state.hostname)[str(model)]:
            raise InvalidInput(
                f"no pool process of this worker serves {model!r}; repair its files and restart the worker"
            )
    except (InvalidInput, RedisError) as error:
        return {"error": f"reload_model: {error}"}
    model_requests.request_reload(str(model))
    return {"ok": f"{model} is loading; `inspect models` shows the outcome as reload_note"}


def read_batching(model: ModelSettings, max_batch_size: object, max_wait_ms: object) -> Batching:
    """Validate new batch limits for ``model``; raises `InvalidInput` with what each takes."""
    if TASKS[model.task].streams:
        raise InvalidInput(
            "the batch limits of a model that generates are fixed when it loads; set them in windrow.toml"
        )
    try:
        limits = ModelSettings.model_validate(
            {"task": model.task, "source": model.source, "max_batch_size": max_batch_size, "max_wait_ms": max_wait_ms}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        name, message = problem["loc"][0], problem["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{name}: {message} (got {problem['input']!r:.100})") from None
    return Batching(limits.max_batch_size, limits.max_wait_s)


def _known_model(model: str | None) -> ModelSettings:
    settings = worker_settings()
    if model is None or model not in settings.models:
        raise InvalidInput(f"unknown model {model!r}; the models are {', '.join(settings.models)}")
    return settings.models[model]


def _is_captured(hostname: str, model: str) -> bool:
    return any(info.get("is_captured") for info in _heartbeats(hostname)[model].values())


def _shown(batching: Batching | None) -> dict[str, Any]:
    if batching is None:
        return {}
    wait_ms = "auto" if batching.max_wait_s is None else batching.max_wait_s * 1e3
    return {"max_batch_size": batching.max_batch_size, "max_wait_ms": wait_ms}


@control_command()
def drain(state: Any, **_: Any) -> dict[str, str]:
    """Claim no more requests on this worker; those it holds finish, and other workers continue."""
    DRAINED.value = 1
    return {"ok": "claiming no more requests"}


@control_command()
def resume(state: Any, **_: Any) -> dict[str, str]:
    """Claim requests again after `drain`."""
    DRAINED.value = 0
    return {"ok": "claiming again"}
