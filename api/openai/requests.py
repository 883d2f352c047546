"""One call, any number of requests: submit them all, wait for every end, and let go of what nobody waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import cache

from redis.exceptions import RedisError

from windrow.api.service import LOOK_S, Service, SubmitCall
from windrow.api.subscriptions.waiters import Waiter
from windrow.errors import Canceled, Stopping, WindrowError
from windrow.scheduler.queue import Prediction

log = logging.getLogger("windrow.api")


def run_all(service: Service, call: SubmitCall, tenant: str, has_hung_up: Callable[[], bool]) -> list[Prediction]:
    """Submit every input of ``call``, all or none, and return their predictions once all have succeeded.

    Raises what became of the first that did not. Then, and where the client hangs up or the server stops, the others
    are canceled: nobody would read them.
    """
    costs = service.check(call)
    ids = service.new_ids(tenant, len(costs))
    with ExitStack() as waits:
        waiters = [waits.enter_context(service.waiters.expect(id)) for id in ids]
        service.submit(call, tenant, ids, costs)
        ended: list[Prediction] = []
        try:
            for waiter in waiters:
                ended.append(succeeded(_wait(waiter, has_hung_up)))
        except BaseException:
            cancel_all(service, call.model, ids[len(ended) :])
            raise
    return ended


def cancel_all(service: Service, model: str, ids: Iterable[str]) -> None:
    """Cancel what has not ended; what Redis cannot be told now runs to its end."""
    with suppress(RedisError):
        for id in ids:
            service.queues[model].cancel(id)


def succeeded(prediction: Prediction) -> Prediction:
    """``prediction``, which has ended; raises the error that it ended with."""
    if prediction.status == "succeeded":
        return prediction
    error = prediction.error or {}
    raise _classes().get(error.get("code", ""), WindrowError)(error.get("detail", f"the request {prediction.status}"))


def require_running(waiter: Waiter) -> None:
    """Raise `Stopping` where the server stops, so that no end will be heard of."""
    if waiter.is_over and waiter.ended() is None:
        raise Stopping("this server stops; send the call again, to the same address")


def _wait(waiter: Waiter, has_hung_up: Callable[[], bool]) -> Prediction:
    while True:
        ended = waiter.wait(LOOK_S)
        if ended is not None:
            return ended
        require_running(waiter)
        if has_hung_up():
            raise Canceled("the client hung up")


@cache
def _classes() -> dict[str, type[WindrowError]]:
    """Every class of error by its code."""
    found, left = {}, [WindrowError]
    while left:
        kind = left.pop()
        found[kind.code] = kind
        left += kind.__subclasses__()
    return found
