"""Finding predictions by id, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redis import Redis

from scheduler.queue.keys import queue_key, result_key
from scheduler.queue.records import Prediction, ended_prediction, holder_of, waiting_prediction


def find_prediction(redis: Redis, models: Sequence[str], id: str) -> Prediction | None:
    """Look for ``id`` among what waits and runs in ``models`` and among all results; None where it is nowhere."""
    pipe = redis.pipeline(transaction=False)
    for model in models:
        pipe.hget(queue_key(model, "jobs"), id)
        pipe.hget(queue_key(model, "payloads"), id)
    # Results are read last: a request that ends in between has left its model and is found here.
    pipe.get(result_key(id))
    *waiting, result = pipe.execute()
    if result is not None:
        return ended_prediction(result) if b'"windrow":{' in result else None
    for model, record, payload in zip(models, waiting[::2], waiting[1::2], strict=True):
        if record is not None:
            return waiting_prediction(id, record, payload, _claims(redis, model, [record])[0])
    return None


def find_predictions(redis: Redis, model: str, ids: Sequence[str]) -> list[Prediction | None]:
    """Look for many requests of one model in one round trip; in the order of ``ids``, None for each that is nowhere."""
    if not ids:
        return []
    pipe = redis.pipeline(transaction=False)
    pipe.hmget(queue_key(model, "jobs"), list(ids))
    pipe.hmget(queue_key(model, "payloads"), list(ids))
    pipe.mget([result_key(id) for id in ids])
    records, payloads, results = pipe.execute()
    claims = _claims(
        redis, model, [record if result is None else None for record, result in zip(records, results, strict=True)]
    )
    found: list[Prediction | None] = []
    for id, record, payload, result, claim in zip(ids, records, payloads, results, claims, strict=True):
        if result is not None:
            found.append(ended_prediction(result) if b'"windrow":{' in result else None)
        elif record is not None:
            found.append(waiting_prediction(id, record, payload, claim))
        else:
            found.append(None)
    return found


def _claims(redis: Redis, model: str, records: Sequence[bytes | None]) -> list[bytes | None]:
    """What is kept of the claims that hold them: one more round trip, where any is held."""
    tokens = [holder_of(record) if record is not None else b"" for record in records]
    held = list({token for token in tokens if token})
    if not held:
        return [None] * len(records)
    found = dict(zip(held, cast(list[bytes | None], redis.hmget(queue_key(model, "claims"), held)), strict=True))
    return [found.get(token) for token in tokens]
