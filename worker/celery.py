"""The Celery app: ``celery -A worker worker``.

Jobs do not travel through Celery's broker, Redis scripts carry them; Celery supervises, controls and schedules.
"""

from __future__ import annotations

from celery import Celery
from kombu import Queue

from scheduler.settings import load_settings
from worker.process import visible_devices
from worker.supervision import PREDICT_QUEUE, Residents

HOUSEKEEPING_QUEUE = "windrow.housekeeping"
JANITOR_EVERY_S = 5.0

settings = load_settings()
app = Celery("windrow", broker=settings.redis_url, backend=settings.redis_url, include=["worker.tasks"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    result_accept_content=["json"],
    result_expires=settings.result_ttl_s,
    task_default_queue=PREDICT_QUEUE,
    task_queues=[Queue(PREDICT_QUEUE), Queue(HOUSEKEEPING_QUEUE)],
    task_routes={"windrow.janitor": {"queue": HOUSEKEEPING_QUEUE}},
    task_create_missing_queues=False,
    beat_schedule={"windrow.janitor": {"task": "windrow.janitor", "schedule": JANITOR_EVERY_S}},
    broker_connection_retry_on_startup=True,
    worker_concurrency=max(1, len(visible_devices())),
    worker_prefetch_multiplier=1,
)
app.steps["consumer"].add(Residents)
