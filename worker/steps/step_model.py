"""One model whose requests run step by step: its queue, its engine, and everything that runs."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

from redis import Redis
from redis.exceptions import ResponseError

from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.queue import RedisQueue, Request
from windrow.scheduler.queue.cancel_listener import CancelListener
from windrow.scheduler.queue.events import Entry, EventStreams
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL
from windrow.scheduler.queue.metrics import TIMES
from windrow.scheduler.queue.redis_queue import expired
from windrow.scheduler.queue.refusals import is_full
from windrow.scheduler.stepping.claiming import PRIORITY_NUMBERS, plan_urgent_claim
from windrow.scheduler.stepping.generation_time import GenerationTime
from windrow.scheduler.tasks.generate import read_parameters
from windrow.worker.engines.base import Delta, StepEngine, SupportsPreemption
from windrow.worker.engines.generation.cache_metrics import HasCache
from windrow.worker.leases.leases import Leases
from windrow.worker.process.model_status import ModelStatus, milliseconds
from windrow.worker.steps.stream_buffer import StreamBuffer

log = logging.getLogger(__name__)
#: Among the metrics of a prediction, and told in its event stream.
TIME_TO_FIRST_TOKEN = "time_to_first_token_ms"
#: How often the engine is asked for room that it makes by itself, in seconds.
ROOM_LOOK_S = 0.02


class StepModel:
    """One model whose requests join and leave an engine that steps. Safe for several threads.

    ``on_left`` is told how many requests are no longer held, whatever became of them; each counts once.
    """

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
        self.engine = engine
        self.leases = Leases(queue, lease_s, is_spare=is_spare)
        self.status = ModelStatus(queue, engine, worker)
        self._redis = redis
        self.streams = EventStreams(redis, queue.model)
        self.cancels = CancelListener(redis, queue.model)
        self.leases.on_lost = self.lose
        self.on_left: Callable[[int], None] = lambda count: None
        #: Held for whatever is changed here; notified when a request has left the engine.
        self.left = threading.Condition()
        #: Set when something came that `tell` is not to wait with.
        self.urgent = threading.Event()
        self._running: dict[str, Request] = {}
        self._gatherer = StreamBuffer()
        #: What has ended, by the engine's name for it, and what of it is being stored.
        self._endings: list[tuple[str, Request]] = []
        self._storing: list[tuple[str, Request]] = []
        #: What is being told.
        self._telling: list[tuple[str, Entry]] = []
        self._pace = GenerationTime()
        self._busy_told_s = 0.0
        self._preemptions_told = 0

    @property
    def running(self) -> int:
        """Requests that the engine has."""
        return len(self._running)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.leases.queue.model

    def heartbeat(self, busy_s: float = 0.0) -> None:
        """Send a heartbeat with the use of the KV cache; see `ModelStatus.heartbeat`."""
        details = asdict(self.engine.cache_use()) if isinstance(self.engine, HasCache) else {}
        self.status.heartbeat(self.engine, len(self.leases.held), busy_s, details)

    def replace_engine(self, engine: StepEngine) -> None:
        """Go on with ``engine``; to be called while nothing is held."""
        self._count_preemptions()
        self.engine = engine
        self._busy_told_s = engine.busy_s
        self._preemptions_told = 0
        self._pace = GenerationTime()
        self.status.engine_replaced(engine)

    def store_observations(self) -> None:
        """Add the observations, preemptions included, to those of all workers."""
        self._count_preemptions()
        self.status.store_observations()

    def _count_preemptions(self) -> None:
        if isinstance(self.engine, HasCache):
            preemptions = self.engine.cache_use().preemptions
            if preemptions > self._preemptions_told:
                self.status.observed.count_preemptions(preemptions - self._preemptions_told)
                self._preemptions_told = preemptions

    def wait_for_room(self, timeout_s: float) -> int:
        """How many more requests the engine takes, waiting up to ``timeout_s`` while it is none."""
        end_s = time.monotonic() + timeout_s
        with self.left:
            while not (room := self.engine.room()) and time.monotonic() < end_s:
                self.left.wait(ROOM_LOOK_S)
            return room

    def wait_for_any_room(self, timeout_s: float) -> tuple[int, tuple[str, ...]]:
        """As `wait_for_room`; where it stays none, how many the engine lets in over others, and of which priorities."""
        if room := self.wait_for_room(timeout_s):
            return room, ()
        return (
            plan_urgent_claim(self.engine.room_by_preemption)
            if isinstance(self.engine, SupportsPreemption)
            else (0, ())
        )

    def add(self, waiting: Sequence[Request], ended: Sequence[Request] = ()) -> None:
        """Let the engine have what can still be answered; ``ended`` are those whose end is known already."""
        lost = 0
        with self.left:
            self._endings += [("", ending) for ending in ended]
            for request in waiting:
                if self.leases.held.get(request.id) != request.token:
                    lost += 1
                elif (refused := self._refuse_late(request)) is not None:
                    self._endings.append(("", request.set_outcome(refused)))
                else:
                    key = _key(request.id, request.token)
                    beside, most = len(self._running) + 1, self.engine.info.max_sequences
                    had_room = most is None or beside <= most
                    request.added_s = request.last_token_s = time.monotonic()
                    request.first_token_s = None
                    request.concurrency, request.had_room = beside, had_room
                    self._running[key] = request
                    if request.is_followed:
                        self._gatherer.begin(key, request)
                    priority = PRIORITY_NUMBERS.get(request.flow.rpartition(":")[2], 1)
                    self.engine.add(key, request.prepared, stream=request.is_followed, priority=priority)
        self.urgent.set()
        self.on_left(lost)

    def take(self, deltas: Sequence[Delta]) -> None:
        """Take up what a step gave; what is no longer held is passed over."""
        now_s = time.monotonic()
        gaps_s: Counter[float] = Counter()
        with self.left:
            ended, was_empty, is_urgent = len(self._endings), self._gatherer.is_empty, False
            beside = len(self._running)
            for delta in deltas:
                running = self._running.get(delta.id)
                if running is None:
                    continue
                if delta.first:
                    self._begun(delta.id, running, now_s)
                    is_urgent = True
                elif delta.tokens and delta.index == 0:  # its other answers come in the same steps
                    gaps_s[(now_s - running.last_token_s) / delta.tokens] += delta.tokens
                    running.last_token_s = now_s
                self._gatherer.add(delta)
                if delta.outcome is not None:
                    del self._running[delta.id]
                    running.concurrency = max(running.concurrency, beside)
                    self._endings.append((delta.id, self._ending(running, delta.outcome, now_s)))
            for gap_s, times in gaps_s.items():
                self.status.observed.observe("inter_token", gap_s, times)
            if len(self._endings) > ended:
                self.left.notify_all()
                is_urgent = True
            if is_urgent or (was_empty and not self._gatherer.is_empty):
                self.urgent.set()

    def tell(self) -> float | None:
        """Tell what is due and store the ends; return in how many seconds more is due, None while nothing is.

        For one thread. Where Redis fails, the next call does the same again.
        """
        while entries := self._due():
            places = self._tell(entries)
            with self.left:
                lost, self._telling = self._gatherer.told(entries, places), []
            for request in lost:
                self.lose(request.id, request.token)
        if endings := self._storable():
            busy_s = self.engine.busy_s
            self.leases.finish([ending for _, ending in endings], busy_s - self._busy_told_s, may_stream=True)
            self._busy_told_s, self._storing = busy_s, []
            with self.left:
                for key, _ in endings:
                    self._gatherer.drop(key)
            self.on_left(len(endings))
        with self.left:
            return 0.0 if self._endings else self._gatherer.wait_s(time.monotonic())

    def lose(self, id: str, token: str) -> None:
        """A request was canceled, or is another worker's by now: it leaves the engine."""
        key = _key(id, token)
        with self.left:
            self.leases.forget(id, token)
            if self._running.pop(key, None) is None:
                return  # it is counted where it is come across: on its way to the engine, or from there
            self.engine.cancel(key)
            self._gatherer.drop(key)
            self.left.notify_all()
        self.on_left(1)

    def hear_canceled(self, timeout_s: float) -> None:
        """Let go of a request that was canceled within ``timeout_s``, as soon as that is heard."""
        id = self.cancels.poll(timeout_s)
        token = None if id is None else self.leases.held.get(id)
        if id is not None and token is not None:
            self.lose(id, token)

    def take_out(self, *, begun: bool) -> dict[str, str]:
        """Make the engine let go of what has no token yet, or of all where ``begun``; return it (id -> token)."""
        with self.left:
            leaving = {key: one for key, one in self._running.items() if begun or one.first_token_s is None}
            for key in leaving:
                del self._running[key]
                self.engine.cancel(key)
                self._gatherer.drop(key)
        return {one.id: one.token for one in leaving.values()}

    def _tell(self, entries: Sequence[tuple[str, Entry]]) -> list[str | None]:
        """Their places. A full Redis takes no events, but it takes results: those streams get only their ends."""
        try:
            return self.streams.tell([entry for _, entry in entries])
        except ResponseError as error:
            if not is_full(error):
                raise
            log.warning("model %s: Redis is full, and %d events are lost", self.model, len(entries))
        with self.left:
            for key, _ in entries:
                self._gatherer.drop(key)
        return [None] * len(entries)

    def _due(self) -> list[tuple[str, Entry]]:
        with self.left:
            self._telling = self._telling or self._gatherer.due(time.monotonic())
            return self._telling

    def _storable(self) -> list[tuple[str, Request]]:
        """Ends before which nothing is left to tell; the others have to wait for that."""
        with self.left:
            if not self._storing:
                waiting: list[tuple[str, Request]] = []
                for pair in self._endings:
                    is_free = len(self._storing) < MAX_REQUESTS_PER_CALL and not self._gatherer.is_pending(pair[0])
                    (self._storing if is_free else waiting).append(pair)
                self._endings = waiting
            return self._storing

    def _refuse_late(self, request: Request) -> Failed | None:
        """Why an answer would come too late to be worth starting; None where it is."""
        if request.deadline_s is None:
            return None
        left_s = request.deadline_s - self.leases.redis_now_s()
        if left_s <= 0:
            return expired()
        asked = read_parameters(request.parameters)
        at_least = asked.wanted_tokens if asked.ignore_eos else asked.min_tokens
        return self._pace.refuse_late(left_s, time.monotonic(), len(self._running), at_least, asked.wanted_tokens)

    def _begun(self, key: str, running: Request, now_s: float) -> None:
        running.first_token_s = running.last_token_s = now_s
        first_s = now_s - running.arrived_s
        self._gatherer.measure(key, TIME_TO_FIRST_TOKEN, milliseconds(first_s))
        self.status.observed.observe("first_token", max(0.0, first_s))
        self.status.observed.count_tokens("prompt", running.prepared.tokens)

    def _ending(self, request: Request, outcome: Outcome, now_s: float) -> Request:
        first_s = request.first_token_s
        times_s = (
            request.claimed_s - request.arrived_s, request.added_s - request.claimed_s,
            now_s - request.added_s, now_s - request.arrived_s,
        )  # fmt: skip
        for name, seconds in zip(TIMES, times_s, strict=True):
            self.status.observed.observe(name, seconds)
        queue_s, batch_wait_s, compute_s, total_s = times_s
        metrics = {
            "queue_ms": milliseconds(queue_s),
            "batch_wait_ms": milliseconds(batch_wait_s),
            "compute_ms": milliseconds(compute_s),
            "total_ms": milliseconds(total_s),
            "attempts": request.attempt,
            "worker": self.status.worker,
        }
        if isinstance(outcome, Done) and first_s is not None:
            usage, answers = outcome.output["usage"], outcome.output.get("choices", [outcome.output])
            tokens, rest_s = max(1, usage["completion_tokens"] // len(answers)), now_s - first_s
            began_s = first_s - request.added_s if request.had_room else None
            self._pace = self._pace.record(now_s, request.concurrency, tokens, began_s, rest_s)
            self.status.observed.count_tokens("completion", usage["completion_tokens"])
            self.status.observed.count_tokens("cached", usage["cached_tokens"])
            metrics[TIME_TO_FIRST_TOKEN] = milliseconds(first_s - request.arrived_s)
            if tokens > 1:
                metrics["inter_token_ms"] = milliseconds(rest_s / (tokens - 1))
        return request.set_outcome(outcome, request.added_s + self.leases.redis_offset_s, metrics)


def _key(id: str, token: str) -> str:
    """The engine's name for it: a request may come again before the engine let go of an attempt that was lost."""
    return f"{token}/{id}"
