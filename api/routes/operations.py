"""The routes for operators: models, health, readiness and metrics."""

from __future__ import annotations

import time
from typing import Any

from flask import Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from redis.exceptions import RedisError

from windrow import errors as core
from windrow.api.http.headers import ID_PATH
from windrow.api.http.responses import json_response
from windrow.api.http.route import Answer, Route
from windrow.api.openai.errors import OPENAI
from windrow.api.routes import schemas
from windrow.api.routes.metrics import render_metrics
from windrow.api.service import Service
from windrow.errors import NoWorker
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S, Heartbeat

#: ``created`` of every model: when this process started, in seconds since 1970.
STARTED_S = int(time.time())
#: Fields of a worker's heartbeat that describe the loaded model.
LOADED = (
    "strategy", "strategy_note", "device", "dtype", "dtype_note", "max_input_tokens", "relative_error",
    "ran_out_tokens", "wait_ms", "reload_note",
)  # fmt: skip


def models(service: Service) -> Response:
    """List the configured models."""
    return json_response({"object": "list", "data": [describe_model(service, name) for name in service.queues]})


def model(service: Service, id: str) -> Response:
    """Describe one model."""
    return json_response(describe_model(service, id))


def healthz(_service: Service) -> Response:
    """Answer as long as the process serves."""
    return json_response({"status": "ok"})


def readyz(service: Service) -> Response:
    """Answer 200 if a worker serves every model, else 503 with the reasons."""
    troubles = [trouble for name in service.queues if (trouble := service.trouble(name, HEARD_WITHIN_S))]
    if troubles:
        raise NoWorker("; ".join(troubles))
    return json_response({"status": "ready"})


def metrics(service: Service) -> Response:
    """Prometheus metrics."""
    return Response(
        render_metrics(service.redis, service.queues, service.settings.models), content_type=CONTENT_TYPE_PLAIN_0_0_4
    )


ROUTES = (
    Route(
        "GET", "/v1/models", models, "List the models", {200: Answer("All configured models.", schemas.Models)}
    ),
    Route(
        "GET", "/v1/models/<id>", model, "Describe a model",
        {200: Answer("The model, and what its workers report about it.", schemas.Model)},
        [core.UnknownModel], parameters=[ID_PATH], error_format=OPENAI,
    ),
    Route(
        "GET", "/healthz", healthz, "Liveness", {200: Answer("The process serves requests.", schemas.Health)},
        needs_key=False,
    ),
    Route(
        "GET", "/readyz", readyz, "Readiness", {200: Answer("A worker serves every model.", schemas.Health)},
        [core.NoWorker, core.RedisUnavailable], needs_key=False,
    ),
    Route(
        "GET", "/metrics", metrics, "Prometheus metrics",
        {200: Answer("Metrics in Prometheus's text format.", text_type="text/plain")}, [core.RedisUnavailable],
    ),
)  # fmt: skip


def describe_model(service: Service, name: str) -> dict[str, Any]:
    """Return a model in OpenAI's shape, with its task and what its workers report about it."""
    task = service.intake.require_model(name).task
    entry = {"id": name, "object": "model", "created": STARTED_S, "owned_by": "windrow", "task": task}
    return entry | loaded_model(service, name)


def loaded_model(service: Service, name: str) -> dict[str, Any]:
    """Return what the workers of a model report; nulls without a worker, or if Redis is unreachable."""
    try:
        heartbeats = list(service.queues[name].workers(within_s=HEARD_WITHIN_S).values())
        failures = service.failures(name)
    except RedisError:
        heartbeats, failures = [], {}
    first = heartbeats[0] if heartbeats else Heartbeat()
    loaded = {field: getattr(first, field) for field in LOADED}
    return {"workers": len(heartbeats), **loaded, "failures": failures or None}
