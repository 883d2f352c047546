"""The API under gunicorn, and raw connections to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer, free_port

GOOD = json.dumps({"model": "minilm", "input": "a text"}).encode()
MAX_BODY_BYTES = 50_000


def start_api(redis_url: str, log: Path | None = None, **environ: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start gunicorn like the Procfile, with ``environ`` added; return the process and its port once it answers.

    Its output goes to ``log``; without one, its errors go to a pipe.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDROW_")} | {
        "CELERY_BROKER_URL": redis_url,
        "PORT": str(port),
        "WINDROW_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        **environ,
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:windrow.api.gunicorn_conf", "api:create_app()"]
    if log is None:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    else:
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    end_s = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
            return process, port
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > end_s:
                process.kill()
                output = process.communicate()[1].decode() if log is None else log.read_text()
                raise RuntimeError(output) from None
            time.sleep(0.05)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json", self.body
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert set(problem) == {"type", "title", "status", "detail", "code"}
        return problem


class Wire:
    """A raw connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def read(self) -> Answer:
        """Read the next response."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Answer(status, headers, self._file.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def head(*more: bytes, target: bytes = b"POST /v1/predictions") -> bytes:
    lines = [target + b" HTTP/1.1", b"Host: test", b"Content-Type: application/json", *more]
    return b"\r\n".join([*lines, b"", b""])


Connect = Callable[[], Wire]


@pytest.fixture(scope="module")
def served() -> Iterator[int]:
    """The port of a running API with a worker and its own Redis."""
    with RedisServer() as redis, FakeWorker(redis.url, "minilm"):
        process, port = start_api(redis.url)
        try:
            yield port
        finally:
            process.terminate()
            log = process.communicate()[1].decode()
    assert process.returncode == 0
    assert "Traceback" not in log, log


@pytest.fixture
def connect(served: int) -> Iterator[Connect]:
    """Opens connections, and finally checks that a valid request is served."""
    opened: list[Wire] = []

    def open_wire() -> Wire:
        opened.append(Wire(served))
        return opened[-1]

    yield open_wire
    for wire in opened:
        wire.close()
    response = httpx.post(
        f"http://127.0.0.1:{served}/v1/predictions", content=GOOD,
        headers={"Content-Type": "application/json", "Prefer": "wait=30"}, timeout=60,
    )  # fmt: skip
    assert (response.status_code, response.json()["status"]) == (200, "succeeded"), response.text
