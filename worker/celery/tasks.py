"""The tasks that travel through Celery: predictions sent by Celery callers, and housekeeping."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.signals import worker_process_shutdown

from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue
from windrow.worker.celery.app import app, settings
from windrow.worker.webhooks.sender import WebhookSender


@app.task(
    name="windrow.predict", Strategy="windrow.worker.celery.message_strategy:put_on_the_queue", ignore_result=True
)
def predict(**call: Any) -> None:
    """Put one request on the same queue as everybody else's: ``model, input, parameters, priority, deadline_ms``.

    The worker's parent process handles the message itself (worker/celery/message_strategy.py); the pool never runs
    this body, and the result is stored under the task's id when the batch is done.
    """
    raise RuntimeError(
        "windrow.predict is taken by its strategy; start the worker with 'celery -A windrow.worker worker'"
    )


@app.task(name="windrow.janitor", ignore_result=True)
def janitor() -> int:
    """Bring back the requests of workers that are gone, and end what is past its deadline; return how many."""
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
    """Send the webhooks that are due, in threads of this process, from now until a while after the last such task."""
    _courier().hint()


@cache
def _courier() -> WebhookSender:
    return WebhookSender(settings, connect(settings.redis_url))


@worker_process_shutdown.connect
def _end_webhooks(**_: Any) -> None:
    if _courier.cache_info().currsize:
        _courier().close()
