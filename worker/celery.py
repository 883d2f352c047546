"""The Celery app: ``celery -A worker worker``.

Jobs do not travel through Celery's broker, Redis scripts carry them; Celery supervises, controls and schedules.
"""

from __future__ import annotations

from celery import Celery
from kombu import Queue

from scheduler.settings import load_settings
from worker.process import visible_devices
from worker.supervision import PREDICT_QUEUE, Residents, StopResidents

HOUSEKEEPING_QUEUE = "windrow.housekeeping"
JANITOR_EVERY_S = 5.0

settings = load_settings()
url = settings.redis_url
if url.startswith("rediss://") and "ssl_cert_reqs" not in url:  # Celery wants it said
    url += ("&" if "?" in url else "?") + "ssl_cert_reqs=required"
app = Celery("windrow", broker=url, backend=url, include=["worker.tasks"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    result_accept_content=["json"],
    result_expires=settings.result_ttl_s,
    task_default_queue=PREDICT_QUEUE,
    # Housekeeping is consumed only where -Q names it: residents fill their pool, and its tasks would wait for ever.
    task_queues=[Queue(PREDICT_QUEUE)],
    task_routes={"windrow.janitor": {"queue": HOUSEKEEPING_QUEUE}},
    beat_schedule={"windrow.janitor": {"task": "windrow.janitor", "schedule": JANITOR_EVERY_S}},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_concurrency=max(1, len(visible_devices())),
    # Messages of predictions are handed on at once; only those for a full queue wait.
    worker_prefetch_multiplier=64,
)
app.steps["consumer"].add(Residents)
app.steps["worker"].add(StopResidents)
