"""Reload of a model under load by a real worker with two pool processes on one CUDA device."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from celery import Celery
from redis import Redis

from tests.support.redis_server import RedisServer
from tests.support.tiny_tasks import save_scorer
from tests.support.worker_process import WorkerProcess, until
from windrow.scheduler.queue import RedisQueue, Submission

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]
PROCESSES = 2


class Stream:
    """Submits five requests every 5 ms during a ``with`` block."""

    def __init__(self, queue: RedisQueue) -> None:
        self.ids: list[str] = []
        self._queue = queue
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _send(self) -> None:
        payload = orjson.dumps({"model": "m", "input": "dry hay and the sun", "parameters": {}})
        while not self._ended.is_set():
            ids = [f"r{len(self.ids) + number}" for number in range(5)]
            self._queue.submit(
                [Submission(id, payload) for id in ids],
                flow="t:normal",
                weight=1.0,
                max_depth=10**6,
                max_bytes=1 << 30,
            )
            self.ids += ids
            time.sleep(0.005)


def test_a_reload_loses_no_request_and_takes_effect_in_every_process(tmp_path: Path) -> None:
    folder, config = tmp_path / "model", tmp_path / "windrow.toml"
    save_scorer(folder, labels=("old", "older"))
    config.write_text(
        f'processes_per_device = {PROCESSES}\n[models.m]\ntask = "classify"\nsource = "{folder}"\ncompile = false\n'
    )
    with RedisServer() as server, Redis.from_url(server.url) as redis:
        queue = RedisQueue(redis, "m")
        with (
            WorkerProcess(server.url, config, ("m",), concurrency=PROCESSES) as worker,
            Celery(broker=server.url, backend=server.url) as app,
        ):

            def processes() -> list[dict[str, Any]]:
                (answer,) = app.control.broadcast("models", reply=True, timeout=10, limit=1)
                (found,) = answer.values()
                return list(found["m"].values())

            until("every process serves", lambda: len(processes()) == PROCESSES)
            with Stream(queue) as stream:
                until("50 requests have succeeded", lambda: queue.depth().counts.get("succeeded", 0) > 50)
                save_scorer(folder, labels=("new", "newer"))
                app.control.broadcast("reload_model", {"model": "m"})
                until(
                    "every process has reloaded",
                    lambda: all("reloaded at" in str(process["reload_note"]) for process in processes()),
                    90,
                )
                submitted = len(stream.ids)
                until("50 more requests are submitted", lambda: len(stream.ids) > submitted + 50)
            until("all requests have succeeded", lambda: queue.depth().counts["succeeded"] == len(stream.ids))
            first, last = queue.lookup(stream.ids[0]), queue.lookup(stream.ids[-1])
            assert first is not None
            assert last is not None
            assert "old" in first.output["label"]
            assert "new" in last.output["label"]
            assert {process["device"] for process in processes()} == {"cuda"}, worker.log
