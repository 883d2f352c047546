"""Connections to Redis: keepalive, reconnects, waits for a free connection, and no retries of sent commands."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from redis.exceptions import ConnectionError

from tests.support.redis_server import RedisServer
from windrow.scheduler.connection.connect import connect, keepalive_options

pytestmark = pytest.mark.integration

#: Replies to the commands of a new connection; any other command is recorded, and its connection is closed.
ANSWERS = {b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"CLIENT": b"-ERR unknown subcommand\r\n", b"PING": b"+PONG\r\n"}


class DroppingServer:
    """A server that receives each command and disconnects without a reply."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.received: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                while data := peer.recv(65_536):
                    answer = next((text for name, text in ANSWERS.items() if name in data), None)
                    if answer is None:
                        self.received.append(data)
                        break
                    peer.sendall(answer * data.count(b"*"))

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[DroppingServer]:
    started = DroppingServer()
    yield started
    started.close()


def test_a_sent_command_without_a_reply_is_not_retried(server: DroppingServer) -> None:
    with connect(server.url) as redis, pytest.raises(ConnectionError):
        redis.execute_command("SUBMIT", "a")
    assert len(server.received) == 1
    with connect(server.url) as redis, redis.pipeline(transaction=False) as pipe:
        pipe.incr("a")
        with pytest.raises(ConnectionError):
            pipe.execute()
    assert len(server.received) == 2


def test_keepalive_detects_a_silent_peer_within_30_seconds(redis_server: str) -> None:
    with connect(redis_server) as redis:
        connection = redis.connection_pool.get_connection()
        sock = connection._sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for option, value in keepalive_options().items():
            assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
        redis.connection_pool.release(connection)
    options = keepalive_options()
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert options[socket.TCP_USER_TIMEOUT] <= 30_000
        idle, every, probes = (
            options[name] for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * probes <= 30


def test_connections_recover_immediately_after_redis_restarts() -> None:
    with RedisServer() as server, connect(server.url) as redis:
        assert redis.ping()
        server.kill()
        with pytest.raises(ConnectionError):
            redis.ping()
        server.start()
        assert redis.ping()
        server.kill()
        server.start()  # the pooled connection is dead, but no call has failed yet
        assert redis.ping()


def test_a_caller_with_wait_s_waits_for_a_free_connection(redis_server: str) -> None:
    with connect(redis_server, max_connections=1, wait_s=30.0) as redis:
        taken = redis.connection_pool.get_connection()
        answers: list[bool] = []
        waiting = threading.Thread(target=lambda: answers.append(bool(redis.ping())))
        waiting.start()
        assert answers == []
        redis.connection_pool.release(taken)
        waiting.join()
        assert answers == [True]


def test_a_wait_for_a_free_connection_times_out(redis_server: str) -> None:
    with connect(redis_server, max_connections=1, wait_s=0.05) as redis:
        taken = redis.connection_pool.get_connection()
        with pytest.raises(ConnectionError, match="No connection available"):
            redis.ping()
        redis.connection_pool.release(taken)
