"""The routes that operators and clients ask before they send work: models, health, readiness, metrics."""

from __future__ import annotations

import time
from typing import Any

import orjson
from flask import Flask, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from redis.exceptions import RedisError

from windrow.api.routes.metrics import ObservedCollector, QueueCollector
from windrow.api.service import Service
from windrow.errors import NoWorker
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S

#: What a worker tells of a loaded model, and the list of models repeats.
LOADED = (
    "strategy",
    "strategy_note",
    "device",
    "dtype",
    "dtype_note",
    "max_input_tokens",
    "relative_error",
    "ran_out_tokens",
    "wait_ms",
    "reload_note",
)


def register(app: Flask, service: Service) -> None:
    """Add the routes to ``app``."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(service.queues))
    registry.register(ObservedCollector(service.redis, service.settings.models))
    created = int(time.time())

    def described(name: str) -> dict[str, Any]:
        task = service.require_model(name).task
        said = {"id": name, "object": "model", "created": created, "owned_by": "windrow", "task": task}
        return said | loaded(service, name)

    def models() -> Response:
        return _json({"object": "list", "data": [described(name) for name in service.settings.models]})

    def model(id: str) -> Response:
        return _json(described(id))

    def healthz() -> Response:
        return _json({"status": "ok"})

    def readyz() -> Response:
        troubles = [trouble for name in service.queues if (trouble := service.trouble(name, HEARD_WITHIN_S))]
        if troubles:
            raise NoWorker("; ".join(troubles))
        return _json({"status": "ready"})

    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    app.add_url_rule("/v1/models", "models", models, methods=["GET"])
    app.add_url_rule("/v1/models/<id>", "model", model, methods=["GET"])
    app.add_url_rule("/healthz", "healthz", healthz, methods=["GET"])
    app.add_url_rule("/readyz", "readyz", readyz, methods=["GET"])
    app.add_url_rule("/metrics", "metrics", metrics, methods=["GET"])


def loaded(service: Service, name: str) -> dict[str, Any]:
    """What the workers of a model say of it; nulls where none does, or Redis cannot be asked."""
    try:
        infos = list(service.queues[name].workers(within_s=HEARD_WITHIN_S).values())
        failures = service.failures(name)
    except RedisError:
        infos, failures = [], {}
    said = orjson.loads(infos[0]) if infos else {}
    return {"workers": len(infos)} | {field: said.get(field) for field in LOADED} | {"failures": failures or None}


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), content_type="application/json")
