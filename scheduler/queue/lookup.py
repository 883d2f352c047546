"""Finds predictions by id, unfinished and finished ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redis import Redis

from windrow.scheduler.queue.keys import queue_key, result_key
from windrow.scheduler.queue.prediction import Prediction, ended_prediction, waiting_prediction
from windrow.scheduler.queue.scripts import source


def find_prediction(redis: Redis, models: Sequence[str], id: str) -> Prediction | None:
    """Return the prediction with that id, unfinished in one of ``models`` or finished; None if there is none."""
    pipe = redis.pipeline(transaction=False)
    for model in models:
        pipe.hget(queue_key(model, "jobs"), id)
        pipe.hget(queue_key(model, "payloads"), id)
        pipe.zscore(queue_key(model, "ready"), id)
    # Results are read last, so that a request that finishes meanwhile is found here.
    pipe.get(result_key(id))
    *waiting, result = pipe.execute()
    if result is not None:
        return ended_prediction(result) if b'"windrow":{' in result else None
    for model, record, payload, tag in zip(models, waiting[::3], waiting[1::3], waiting[2::3], strict=True):
        if record is not None:
            (claimed_us,) = _claimed_us(redis, model, [id] if tag is None else []) or [b""]
            return waiting_prediction(id, record, payload, waits=tag is not None, claimed_us=claimed_us)
    return None


def find_predictions(redis: Redis, model: str, ids: Sequence[str]) -> list[Prediction | None]:
    """Return predictions of one model in the order of ``ids``, None for each unknown id; usually in one round trip."""
    if not ids:
        return []
    pipe = redis.pipeline(transaction=False)
    pipe.hmget(queue_key(model, "jobs"), list(ids))
    pipe.hmget(queue_key(model, "payloads"), list(ids))
    pipe.zmscore(queue_key(model, "ready"), list(ids))
    pipe.mget([result_key(id) for id in ids])
    *kept, results = pipe.execute()
    rows = list(zip(ids, *kept, results, strict=True))
    running = [id for id, record, _, tag, result in rows if record is not None and tag is None and result is None]
    claimed_us = dict(zip(running, _claimed_us(redis, model, running), strict=True))
    found: list[Prediction | None] = []
    for id, record, payload, tag, result in rows:
        if result is not None:
            found.append(ended_prediction(result) if b'"windrow":{' in result else None)
        elif record is not None:
            at_us = claimed_us.get(id, b"")
            found.append(waiting_prediction(id, record, payload, waits=tag is not None, claimed_us=at_us))
        else:
            found.append(None)
    return found


def _claimed_us(redis: Redis, model: str, running: Sequence[str]) -> list[bytes]:
    """Return the times of their claims, empty if no claim holds the request; one round trip if any request runs."""
    if not running:
        return []
    script = source("claim_times")
    keys = [queue_key(model, name) for name in script.keys]
    return cast(list[bytes], redis.register_script(script.code)(keys=keys, args=list(running)))
