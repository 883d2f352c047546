"""A Redis server with the users of deploy/redis-acl.conf."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tests.support.redis_server import RedisServer

SHIPPED = Path(__file__).parents[2] / "deploy/redis-acl.conf"
ROLES = ("windrow-api", "windrow-worker", "windrow-housekeeping")
PASSWORD = "hush"
ADMIN = "test-admin"


def role_url(server: RedisServer, role: str) -> str:
    """Return the URL with which a process of ``role`` connects."""
    return f"redis://{role}:{PASSWORD}@127.0.0.1:{server.port}/0"


def acl_server(folder: Path, binary: str | None = None) -> RedisServer:
    """Return a server that is not started yet, with the shipped users and an administrator, all with `PASSWORD`."""
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    config = folder / "redis-acl.conf"
    users = re.sub(r"#SHA256-OF-THE-PASSWORD-OF-[A-Z-]+", f"#{digest}", SHIPPED.read_text())
    config.write_text(f"{users}\nuser {ADMIN} on #{digest} allkeys allchannels +@all\n")
    return RedisServer("--include", str(config), binary=binary, login=f"{ADMIN}:{PASSWORD}@")


def allowed_commands() -> dict[str, set[str]]:
    """Return the commands that the shipped file allows each role."""
    lines = [line.split() for line in SHIPPED.read_text().splitlines() if line.startswith("user windrow-")]
    return {line[1]: {word[1:] for word in line if word[0] == "+"} for line in lines}
