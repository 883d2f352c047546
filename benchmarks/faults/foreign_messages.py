"""Foreign messages on the queues: pickles that would run code, and records of a newer release."""

from __future__ import annotations

import base64
import pickle
import secrets
import time
from pathlib import Path
from typing import Any

import orjson
from celery import Celery
from kombu import Connection, Exchange, Producer
from kombu.exceptions import KombuError

from benchmarks.faults.checker import MODEL, Checker, payload_of, texts_of
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.report import Report
from windrow.bench.programs import Check
from windrow.scheduler.queue import result_key

QUEUES = ("windrow", "windrow.housekeeping", "celery")
LIMIT_S = 60.0
PICKLE = "application/x-python-serialize"


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def put_pickles(folder: Path, check: Check) -> Report:
    """Put pickles on every Celery queue, on remote control and in a result; none may run, and work must continue."""
    report = Report("pickles on every queue")
    unpickled = folder / "unpickled"
    with Deployment(folder, check) as deployment, Checker(deployment.url) as checker:
        worker = deployment.start_worker(queues=",".join(QUEUES))
        body = pickle.dumps(Canary(unpickled))
        assert not unpickled.exists()
        with Connection(deployment.url) as connection:
            for queue in QUEUES:
                for task in ("windrow.predict", "windrow.janitor"):
                    checker.redis.lpush(queue, _message(body, task, queue))
            _broadcast(connection, body)
        id = secrets.token_hex(8)
        checker.redis.set(result_key(id), body)
        checker.submit(texts_of(50))
        app = Celery(broker=deployment.url, backend=deployment.url)
        app.conf.update(accept_content=["json"], result_accept_content=["json"])
        deployment.wait_until("the queues are empty", lambda: not any(map(checker.redis.llen, QUEUES)), LIMIT_S)
        report.must(not _reads(app, id), "a pickled result was read")
        control = app.control.inspect(timeout=2, limit=1)
        deployment.wait_until("the worker answers a ping", control.ping, LIMIT_S)
        checker.submit(texts_of(50))
        checker.settle(report, deployment.wait_until, LIMIT_S)
        app.close()
        report.must(not worker.has_ended, "the worker ended")
        unsafe = [line for line in worker.log.splitlines() if "Canary" in line]
        report.must(not unsafe, f"the worker deserialized a pickle: {unsafe[:1]}")
    report.figure("pickles put", 2 * len(QUEUES) + 2, digits=0)
    report.figure("that ran", int(unpickled.exists()), "", "0", 0)
    report.must(not unpickled.exists(), "a pickle ran")
    return report


def _message(body: bytes, task: str, queue: str) -> bytes:
    """Encode a message as kombu stores it in Redis."""
    id = secrets.token_hex(16)
    return orjson.dumps(
        {
            "body": base64.b64encode(body).decode(), "content-type": PICKLE, "content-encoding": "binary",
            "headers": {"lang": "py", "task": task, "id": id, "root_id": id, "parent_id": None, "group": None},
            "properties": {
                "correlation_id": id, "reply_to": id, "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": secrets.token_hex(16),
            },
        }
    )  # fmt: skip


def _broadcast(connection: Connection, body: bytes) -> None:
    """Publish ``body`` to the remote-control mailbox of every worker."""
    exchange = Exchange("celery.pidbox", type="fanout", durable=False)
    with connection.channel() as channel:
        Producer(channel, exchange=exchange).publish(body, content_type=PICKLE, content_encoding="binary")


def _reads(app: Celery, id: str) -> bool:
    try:
        app.backend.get_task_meta(id)
    except (KombuError, ValueError):
        return False
    return True


def share_with_newer(folder: Path, check: Check, foreign: int, requests: int) -> Report:
    """Queue records of a newer release first; workers must leave them as they are and answer later requests."""
    report = Report(f"{foreign} records of a newer release beside the queue")
    with Deployment(folder, check) as deployment, Checker(deployment.url) as checker:
        now_us = int(time.time() * 1e6)
        records = {
            secrets.token_hex(8): f"4|x|{now_us}|any content|".encode() + payload_of(MODEL, "a") for _ in range(foreign)
        }
        for id, record in records.items():
            checker.redis.hset(f"windrow:{MODEL}:jobs", id, record)
            checker.redis.zadd(f"windrow:{MODEL}:ready-4", {id: 0.0})
        deployment.start_worker()
        began_s = time.monotonic()
        checker.submit(texts_of(requests))
        checker.settle(report, deployment.wait_until, LIMIT_S / 3)
        report.figure("ours were answered after", time.monotonic() - began_s, "s")
        deployment.pause(2 * deployment.lease_s)
        left = sum(
            checker.redis.hget(f"windrow:{MODEL}:jobs", id) == record
            and checker.redis.zscore(f"windrow:{MODEL}:ready-4", id) == 0.0
            for id, record in records.items()
        )
        report.figure("theirs still wait, untouched", left, "requests", str(foreign), 0)
        report.must(left == foreign, f"{foreign - left} records of the newer release were touched")
        report.must(checker.queue.depth().running == 0, "a record of the newer release is claimed")
    return report
