"""Celery tasks: predictions sent by Celery callers, and housekeeping."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.signals import worker_process_shutdown

from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue
from windrow.worker.celery.app import app
from windrow.worker.celery.worker_settings import worker_settings
from windrow.worker.webhooks.sender import WebhookSender


@app.task(
    name="windrow.predict", Strategy="windrow.worker.celery.message_strategy:put_on_the_queue", ignore_result=True
)
def predict(**call: Any) -> None:
    """Submit one request: ``model, input, parameters, priority, deadline_ms``.

    The worker's parent process queues it when the message arrives (worker/celery/message_strategy.py), so no pool
    process runs this body. The result is stored under the task's id when its batch finishes.
    """
    raise RuntimeError(
        "windrow.predict is handled by its message strategy; start the worker with 'celery -A windrow.worker worker'"
    )


@app.task(name="windrow.janitor", ignore_result=True)
def janitor() -> int:
    """Requeue requests whose lease expired and expire those past their deadline; return how many."""
    settings = worker_settings()
    redis = connect(settings.redis_url)
    try:
        return sum(
            RedisQueue(redis, model, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts).reap()
            for model in settings.models
        )
    finally:
        redis.close()


@app.task(name="windrow.webhook", ignore_result=True)
def webhook() -> None:
    """Deliver due webhooks in threads of this process, until a while after the last run of this task."""
    _webhook_sender().hint()


@cache
def _webhook_sender() -> WebhookSender:
    settings = worker_settings()
    return WebhookSender(settings, connect(settings.redis_url))


@worker_process_shutdown.connect
def _close_webhook_sender(**_: Any) -> None:
    if _webhook_sender.cache_info().currsize:
        _webhook_sender().close()
