"""The Redis servers on which the tests run, each started on first use."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support.redis_server import RedisServer, find_embedded_server, find_newer_server

FAKE, EMBEDDED, NEWER = "fakeredis", "redis-6.2-embedded", "redis-7"


class Servers:
    """The real servers of one test run."""

    def __init__(self) -> None:
        self._started: dict[str, RedisServer] = {}
        self._stack = ExitStack()

    def url(self, name: str) -> str:
        """Return the URL of an empty server. Skips the test if Redis 7 is needed and not installed."""
        if name not in self._started:
            self._started[name] = self._stack.enter_context(RedisServer(binary=binary_of(name)))
        server = self._started[name]
        with server.client() as client:
            client.flushall()
        return server.url

    def close(self) -> None:
        """Stop all started servers."""
        self._stack.close()


def binary_of(name: str) -> str:
    """Return the path of the server binary. Skips the test if Redis 7 is needed and not installed."""
    if name == EMBEDDED:
        return find_embedded_server()
    newer = find_newer_server()
    if newer is None:
        pytest.skip("no redis-server of version 7 or later on the PATH")
    return newer
