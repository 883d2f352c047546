"""A `BatchBuffer` on a fake clock, so that a test runs in one thread and takes no time.

`BatchBuffer` reads its clock whenever it decides. The fake clock advances on each read and performs the actions that
were scheduled until then, such as arrivals.
"""

from collections.abc import Callable

from tests.support.worker_requests import prepared_request
from windrow.scheduler.core.batch_scheduler import BatchScheduler
from windrow.scheduler.core.window import WindowLimits
from windrow.worker.batches.batch_buffer import BatchBuffer, ClosedWindow

WINDOW_S = 0.005
TICK_S = 0.0005


class FakeClock:
    """Advances by ``tick_s`` on each read and performs the actions scheduled until then."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self.now_s = 100.0
        self._tick_s = tick_s
        self._actions: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        self.advance(self._tick_s)
        return self.now_s

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        self._actions.append((time_s, action))

    def advance(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        for time_s, action in sorted((due for due in self._actions if due[0] <= end_s), key=lambda due: due[0]):
            self._actions.remove((time_s, action))
            self.now_s = max(self.now_s, time_s)
            action()
        self.now_s = end_s


class FakeBuffer:
    """A `BatchBuffer`, its fake clock, and short ways to fill it and to take from it."""

    def __init__(self, **limits: WindowLimits) -> None:
        self.clock = FakeClock()
        limits = limits or {"m": WindowLimits(8, 1000, WINDOW_S)}
        self.schedulers = {model: BatchScheduler(limit) for model, limit in limits.items()}
        self.buffer = BatchBuffer(self.schedulers, clock=self.clock)

    def arrive(self, *ids: str, model: str = "m", tokens: int = 10, since_s: float | None = None) -> None:
        """Add requests that are claimed now and were submitted at ``since_s``, by default now."""
        now_s = self.clock.now_s
        arrived_s = now_s if since_s is None else since_s
        self.buffer.add(model, [prepared_request(id, tokens, arrived_s=arrived_s, claimed_s=now_s) for id in ids], 0)

    def arrive_when_idle(self, id: str) -> None:
        """Add a request after the next `BatchBuffer.take` has ended the previous run."""
        self.clock.at(self.clock.now_s + 1.5 * TICK_S, lambda: self.arrive(id))

    def take(self) -> ClosedWindow:
        window = self.buffer.take()
        assert window is not None
        return window

    def take_ids(self) -> list[str]:
        return [request.id for request in self.take().requests]

    def reserve(self, timeout_s: float = 0.0, model: str = "m") -> int:
        """Return how many requests may be claimed; 0 for none."""
        claim = self.buffer.reserve(model, timeout_s)
        return claim.size if claim else 0
