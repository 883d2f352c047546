"""The Celery app: ``celery -A windrow.worker worker``.

Jobs do not travel through Celery's broker, Redis scripts carry them; Celery supervises, controls and schedules.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.platforms import set_pdeathsig
from celery.signals import beat_embedded_init
from kombu import Queue

from windrow.scheduler.config.settings import load_settings
from windrow.worker.celery import control  # noqa: F401  (registers its commands, for ``celery inspect`` too)
from windrow.worker.celery.broker import celery_connection
from windrow.worker.celery.log_redaction import keep_bodies_out_of_the_log
from windrow.worker.celery.redis_check import CheckRedis
from windrow.worker.celery.supervision import PREDICT_QUEUE, PoolProcesses, StopPoolProcesses
from windrow.worker.process.pool_process import visible_devices

HOUSEKEEPING_QUEUE = "windrow.housekeeping"
JANITOR_EVERY_S = 5.0
#: The process that gets this hint goes on looking for longer than until the next
#: (`windrow.worker.webhooks.sender.AWAKE_S`).
WEBHOOK_EVERY_S = 5.0

settings = load_settings()
app = Celery("windrow", include=["windrow.worker.celery.tasks"])
app.conf.update(
    **celery_connection(settings.redis_url),
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    result_accept_content=["json"],
    result_expires=settings.result_ttl_s,
    task_default_queue=PREDICT_QUEUE,
    # Housekeeping is consumed only where -Q names it: residents fill their pool, and its tasks would wait for ever.
    task_queues=[Queue(PREDICT_QUEUE)],
    task_routes={name: {"queue": HOUSEKEEPING_QUEUE} for name in ("windrow.janitor", "windrow.webhook")},
    beat_schedule={
        "windrow.janitor": {"task": "windrow.janitor", "schedule": JANITOR_EVERY_S},
        "windrow.webhook": {"task": "windrow.webhook", "schedule": WEBHOOK_EVERY_S},
    },
    worker_concurrency=max(1, len(visible_devices()) * settings.processes_per_device),
    # Messages of predictions are handed on at once; only those for a full queue wait.
    worker_prefetch_multiplier=64,
)
keep_bodies_out_of_the_log()
app.steps["consumer"].add(CheckRedis)
app.steps["consumer"].add(PoolProcesses)
app.steps["worker"].add(StopPoolProcesses)


@beat_embedded_init.connect
def _end_with_the_parent(**_: Any) -> None:
    """A beat that outlives its worker would go on sending hints beside the next one's."""
    set_pdeathsig("SIGKILL")
