"""Runs the requests of one call: submits all, waits for every result, and cancels the rest if one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import cache

from redis.exceptions import RedisError

from windrow.api.service import LOOK_S, Service
from windrow.api.subscriptions.waiters import Waiter
from windrow.errors import Canceled, Stopping, WindrowError
from windrow.scheduler.intake import SubmitCall
from windrow.scheduler.queue import Prediction


def run_requests(
    service: Service, call: SubmitCall, tenant: str, has_hung_up: Callable[[], bool] | None
) -> list[Prediction]:
    """Submit every input of ``call``, all or none, and return their predictions once all have succeeded.

    Raises the error of the first one that failed. In that case, and if the client disconnects or the server stops, the
    remaining requests are canceled.
    """
    ids = service.intake.new_ids(tenant, len(call.inputs))
    with ExitStack() as stack:
        waiters = [stack.enter_context(service.waiters.expect(id)) for id in ids]
        service.intake.submit(call, tenant, ids)
        finished: list[Prediction] = []
        try:
            for waiter in waiters:
                finished.append(require_success(_wait(waiter, has_hung_up)))
        except BaseException:
            cancel_requests(service, call.model, ids[len(finished) :])
            raise
    return finished


def cancel_requests(service: Service, model: str, ids: Iterable[str]) -> None:
    """Cancel the requests that have not finished; if Redis is unreachable, they run to their end."""
    with suppress(RedisError):
        for id in ids:
            service.queues[model].cancel(id)


def require_success(prediction: Prediction) -> Prediction:
    """Return ``prediction``, which has finished; raises its error if it did not succeed."""
    if prediction.status == "succeeded":
        return prediction
    error = prediction.error or {}
    kind = _error_classes().get(error.get("code", ""), WindrowError)
    raise kind(error.get("detail", f"the request {prediction.status}"))


def require_running(waiter: Waiter) -> None:
    """Raise `Stopping` if the server stops, because no result will be received."""
    if waiter.is_over and waiter.ended() is None:
        raise Stopping("this server is stopping; send the call again to the same address")


def _wait(waiter: Waiter, has_hung_up: Callable[[], bool] | None) -> Prediction:
    while True:
        finished = waiter.wait(LOOK_S)
        if finished is not None:
            return finished
        require_running(waiter)
        if has_hung_up is not None and has_hung_up():
            raise Canceled("the client disconnected")


@cache
def _error_classes() -> dict[str, type[WindrowError]]:
    """Return every error class by its code."""
    classes, unvisited = {}, [WindrowError]
    while unvisited:
        kind = unvisited.pop()
        classes[kind.code] = kind
        unvisited += kind.__subclasses__()
    return classes
