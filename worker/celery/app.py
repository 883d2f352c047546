"""The Celery app: ``celery -A windrow.worker worker``.

Requests do not travel through Celery's broker: Redis scripts carry them. Celery supervises the pool processes, answers
remote control, and schedules housekeeping.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.platforms import set_pdeathsig
from celery.signals import beat_embedded_init
from kombu import Queue

from windrow.worker.celery import control  # noqa: F401  (registers its commands, for ``celery inspect`` too)
from windrow.worker.celery.broker import celery_connection
from windrow.worker.celery.log_redaction import redact_message_bodies
from windrow.worker.celery.redis_check import CheckRedis
from windrow.worker.celery.supervision import PREDICT_QUEUE, PoolProcesses, StopPoolProcesses
from windrow.worker.celery.worker_settings import worker_settings
from windrow.worker.pool.pool_process import visible_devices

HOUSEKEEPING_QUEUE = "windrow.housekeeping"
JANITOR_EVERY_S = 5.0
#: Each run delivers webhooks for longer than this interval (`windrow.worker.webhooks.sender.AWAKE_S`).
WEBHOOK_EVERY_S = 5.0

settings = worker_settings()
app = Celery("windrow", include=["windrow.worker.celery.tasks"])
app.conf.update(
    **celery_connection(settings.redis_url),
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    result_accept_content=["json"],
    result_expires=settings.result_ttl_s,
    task_default_queue=PREDICT_QUEUE,
    # Housekeeping needs a worker of its own (-Q): the batch loops occupy every pool process of the others.
    task_queues=[Queue(PREDICT_QUEUE)],
    task_routes={name: {"queue": HOUSEKEEPING_QUEUE} for name in ("windrow.janitor", "windrow.webhook")},
    beat_schedule={
        "windrow.janitor": {"task": "windrow.janitor", "schedule": JANITOR_EVERY_S},
        "windrow.webhook": {"task": "windrow.webhook", "schedule": WEBHOOK_EVERY_S},
    },
    worker_concurrency=max(1, len(visible_devices()) * settings.processes_per_device),
    # The parent process queues each prediction at once; only messages for a full queue wait.
    worker_prefetch_multiplier=64,
)
redact_message_bodies()
app.steps["consumer"].add(CheckRedis)
app.steps["consumer"].add(PoolProcesses)
app.steps["worker"].add(StopPoolProcesses)


@beat_embedded_init.connect
def _end_with_parent(**_: Any) -> None:
    """End the beat process with its worker; otherwise it would schedule tasks beside the next worker's beat."""
    set_pdeathsig("SIGKILL")
