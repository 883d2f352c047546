"""``python -m windrow.worker.health worker@<host>``: exits with 0 if that worker's batch loops make progress, else
with 1.

`celery inspect ping` asks the parent process, which answers whatever its pool does. This command reads the heartbeats
of the pool processes from Redis, as ``/readyz`` does.
"""

from __future__ import annotations

import argparse
import sys

from redis.exceptions import RedisError

from windrow.errors import WindrowError
from windrow.scheduler.config.settings import Settings, load_settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S, describe_trouble
from windrow.scheduler.queue import RedisQueue


def troubles_of(settings: Settings, worker: str) -> list[str]:
    """Return the problems of ``worker``, a Celery node name; empty if a pool process makes progress for each model.

    A model that failed to load is not a problem of the worker, and `/readyz` reports it, unless no model is served.
    Raises `redis.exceptions.RedisError`.
    """
    with connect(settings.redis_url) as redis:
        heartbeats = {
            model: {
                name: heartbeat
                for name, heartbeat in RedisQueue(redis, model).workers(within_s=HEARD_WITHIN_S).items()
                if name.rpartition("/")[0] == worker
            }
            for model in settings.models
        }
    if not any(heartbeats.values()):
        return [f"no heartbeat from {worker} in the last {HEARD_WITHIN_S:.0f} s"]
    found = [
        describe_trouble(model, by_worker, within_s=HEARD_WITHIN_S, stall_s=settings.stall_s)
        for model, by_worker in heartbeats.items()
        if by_worker
    ]
    return [trouble for trouble in found if trouble is not None]


def main() -> int:
    """Print the problems and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m windrow.worker.health", description="Is this worker making progress?"
    )
    parser.add_argument("worker", help="the worker's node name, such as worker@host")
    worker = parser.parse_args().worker
    try:
        troubles = troubles_of(load_settings(), worker)
    except (RedisError, WindrowError) as error:
        troubles = [f"cannot check: {error}"]
    print("\n".join(troubles) or f"{worker} makes progress")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
