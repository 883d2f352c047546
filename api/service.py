"""`Service`: what all routes of an API process share, and the calls that find, await and cancel predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from redis import Redis
from redis.exceptions import RedisError

from windrow.api.subscriptions.event_followers import Followers
from windrow.api.subscriptions.waiters import Waiter, Waiters
from windrow.errors import PredictionGone, UnknownPrediction
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.core.heartbeats import describe_trouble
from windrow.scheduler.intake import Intake
from windrow.scheduler.queue import Prediction, RedisQueue, finished_channel
from windrow.scheduler.queue.ids import is_issued
from windrow.scheduler.queue.load_failures import read_reasons
from windrow.scheduler.queue.lookup import find_prediction, find_predictions

#: How often a route that waits checks whether its client is still connected, in seconds.
LOOK_S = 0.5


class Service:
    """The queues, the intake and the subscriptions of one API process, shared by all its HTTP requests.

    `redis.exceptions.RedisError` passes through.
    """

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.settings = settings
        self.redis = redis
        self.queues = {
            name: RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
            for name in settings.models
        }
        self.intake = Intake(settings, redis, self.queues)
        self.waiters = Waiters(redis, [finished_channel(name) for name in settings.models])
        self.followers = Followers(redis, list(settings.models), self.waiters)

    def find(self, id: str, tenant: str) -> Prediction:
        """Return a prediction of ``tenant``; raises `UnknownPrediction` or `PredictionGone`."""
        found = find_prediction(self.redis, list(self.queues), id) if len(id) <= 64 else None
        if found is not None and found.tenant == tenant:
            return found
        if found is None and is_issued(self.intake.secret(), tenant, id):
            raise PredictionGone(f"prediction {id} has finished and its result is no longer kept")
        raise UnknownPrediction(f"there is no prediction {id[:64]!r}")

    def refresh(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Read the current state of predictions that were just accepted, all of one model.

        If Redis does not answer, or has lost a prediction, it is returned as it was, because the client needs its id.
        """
        try:
            found = find_predictions(self.redis, predictions[0].model, [prediction.id for prediction in predictions])
        except RedisError:
            return list(predictions)
        return [present or accepted for present, accepted in zip(found, predictions, strict=True)]

    def find_ended(
        self, id: str, tenant: str, wait_s: float, has_hung_up: Callable[[], bool] | None = None
    ) -> Prediction:
        """Return a prediction when it has finished or ``wait_s`` seconds have passed; see `wait`."""
        if wait_s <= 0:
            return self.find(id, tenant)
        with self.waiters.expect(id) as waiter:
            found = self.find(id, tenant)
            if found.is_ended:
                return found
            return self.wait(waiter, id, tenant, wait_s, has_hung_up) or self.find(id, tenant)

    def wait(
        self, waiter: Waiter, id: str, tenant: str, wait_s: float, has_hung_up: Callable[[], bool] | None
    ) -> Prediction | None:
        """Wait for a prediction to finish and return it; None if ``wait_s`` seconds pass first or the server stops.

        ``has_hung_up`` returns whether the client has disconnected; the prediction is then canceled. With None, it
        continues.
        """
        if has_hung_up is None:
            return waiter.wait(wait_s)
        end_s = time.monotonic() + wait_s
        while (left_s := end_s - time.monotonic()) > 0:
            ended = waiter.wait(min(LOOK_S, left_s))
            if ended is not None or waiter.is_over:
                return ended
            if has_hung_up():
                return self.cancel(id, tenant)
        return None

    def cancel(self, id: str, tenant: str) -> Prediction:
        """Cancel a prediction unless it has finished, and return its state after that."""
        found = self.find(id, tenant)
        if found.is_ended or found.model not in self.queues:
            return found
        self.queues[found.model].cancel(id)
        return self.find(id, tenant)

    def wait_s(self, model: str) -> float | None:
        """Return the measured seconds until a request submitted now would finish; None if unknown."""
        try:
            return self.intake.wait_s(model)
        except RedisError:
            return None

    def failures(self, model: str) -> dict[str, str]:
        """Return worker -> reason, for each worker that could not load ``model``."""
        return read_reasons(self.redis, model)

    def trouble(self, model: str, within_s: float) -> str | None:
        """Return why no worker has served ``model`` in the last ``within_s`` seconds; None if one has."""
        heartbeats = self.queues[model].workers(within_s=within_s)
        failures = {} if heartbeats else self.failures(model)
        return describe_trouble(model, heartbeats, within_s=within_s, stall_s=self.settings.stall_s, failures=failures)
