"""``python -m windrow.worker.health worker@<host>``: exit 0 where that worker's resident loops make progress, else 1.

`celery inspect ping` asks the parent process, which answers whatever its pool does. This asks Redis when a loop was
last heard of, as ``/readyz`` does.
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
    """What is wrong with the loops of ``worker``, a node name of Celery; nothing where one of each model goes on.

    A model that none of its loops serves could not be loaded, which `/readyz` tells: here it counts only if there is
    no other. `redis.exceptions.RedisError` passes through.
    """
    with connect(settings.redis_url) as redis:
        heard = {
            model: {
                name: info
                for name, info in RedisQueue(redis, model).workers(within_s=HEARD_WITHIN_S).items()
                if name.rpartition("/")[0] == worker
            }
            for model in settings.models
        }
    if not any(heard.values()):
        return [f"no loop of {worker} has been heard of in the last {HEARD_WITHIN_S:.0f} s"]
    found = [
        describe_trouble(model, infos, within_s=HEARD_WITHIN_S, stall_s=settings.stall_s)
        for model, infos in heard.items()
        if infos
    ]
    return [trouble for trouble in found if trouble is not None]


def main() -> int:
    """Print what is wrong and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m windrow.worker.health", description="Is this worker making progress?"
    )
    parser.add_argument("worker", help="the worker's node name, such as worker@host")
    worker = parser.parse_args().worker
    try:
        troubles = troubles_of(load_settings(), worker)
    except (RedisError, WindrowError) as error:
        troubles = [f"cannot tell: {error}"]
    print("\n".join(troubles) or f"{worker} goes on")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
