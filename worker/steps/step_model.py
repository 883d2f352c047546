"""One model that generates: its engine, its leases, the requests in the engine, and what it publishes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from redis import Redis

from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.cancel_listener import CancelListener
from windrow.scheduler.queue.events import EventStreams
from windrow.worker.engines.base import HasCache, StepEngine
from windrow.worker.leases.leases import Leases
from windrow.worker.process.model_status import ModelStatus
from windrow.worker.steps.generation_metrics import GenerationMetrics
from windrow.worker.steps.publisher import Publisher
from windrow.worker.steps.running_requests import RunningRequests


class StepModel:
    """The parts of one served model, which `windrow.worker.steps.step_loop.StepLoop` drives. Thread-safe."""

    def __init__(
        self,
        redis: Redis,
        queue: RedisQueue,
        engine: StepEngine,
        lease_s: float,
        worker: str,
        *,
        is_spare: bool = False,
    ) -> None:
        #: Called with the number of requests that this process stops holding, for whatever reason; each counts once.
        self.on_left: Callable[[int], None] = lambda count: None
        self.leases = Leases(queue, lease_s, is_spare=is_spare)
        self.status = ModelStatus(queue, engine, worker)
        self.metrics = GenerationMetrics(self.status)
        self.publisher = Publisher(EventStreams(redis, queue.model), self.leases)
        self.requests = RunningRequests(engine, self.leases, self.metrics, self.publisher, self._left)
        self.leases.on_lost = self.requests.lose
        self._cancels = CancelListener(redis, queue.model)
        self._counted_preemptions = 0

    @property
    def model(self) -> str:
        """The model's name."""
        return self.leases.queue.model

    @property
    def engine(self) -> StepEngine:
        """The engine that runs the model; a reload replaces it."""
        return self.requests.engine

    @property
    def running(self) -> int:
        """Number of requests in the engine."""
        return len(self.requests)

    def replace_engine(self, engine: StepEngine) -> None:
        """Use ``engine`` from now on. May only be called while this process holds no request."""
        self._count_preemptions()
        self._counted_preemptions = 0
        self.requests.engine = engine
        self.metrics.reset()
        self.publisher.engine_replaced(engine.busy_s)
        self.status.engine_replaced(engine)

    def heartbeat(self, busy_s: float = 0.0) -> None:
        """Send a heartbeat with the use of the KV cache; see `ModelStatus.heartbeat`."""
        details = asdict(self.engine.cache_use()) if isinstance(self.engine, HasCache) else {}
        self.status.heartbeat(self.engine, len(self.leases.held), busy_s, details)

    def store_observations(self) -> None:
        """Add the observations, preemptions included, to those of all workers."""
        self._count_preemptions()
        self.status.store_observations()

    def publish(self) -> float | None:
        """Write due events and store finished requests; return in how many seconds to call again, or None if idle.

        For one thread. After a Redis error, the next call repeats what failed.
        """
        while (lost := self.publisher.write_events()) is not None:
            for request in lost:
                self.requests.lose(request.id, request.token)
        if stored := self.publisher.store_finished(self.engine.busy_s):
            self._left(stored)
        return self.publisher.wait_s()

    def remove_canceled(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` for a cancelation, and remove that request from the engine."""
        id = self._cancels.poll(timeout_s)
        token = None if id is None else self.leases.held.get(id)
        if id is not None and token is not None:
            self.requests.lose(id, token)

    def close(self) -> None:
        """Close the subscription to cancelations."""
        self._cancels.close()

    def _left(self, count: int) -> None:
        self.on_left(count)

    def _count_preemptions(self) -> None:
        if isinstance(self.engine, HasCache):
            preemptions = self.engine.cache_use().preemptions
            if preemptions > self._counted_preemptions:
                self.status.observed.count_preemptions(preemptions - self._counted_preemptions)
                self._counted_preemptions = preemptions
