"""One request: as it is submitted, and as a worker holds it from the claim to the finish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from windrow.scheduler.core.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Submission:
    """One request to be queued."""

    id: str
    #: JSON object ``{"model", "input", "parameters"}``, encoded; see `records.encode_call`.
    payload: bytes
    #: Cost that the queue, the quotas and fairness count, in the task's unit (tokens for text).
    cost_tokens: int = 1
    #: Seconds from the submit to the deadline, after which the request must not start; None for no deadline.
    deadline_s: float | None = None
    #: HTTPS URL that is called when the request finishes.
    webhook: str | None = None
    #: Whether the worker writes an event stream for it.
    is_followed: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The reply to a submit."""

    ids: list[str]
    #: Redis time of the submit, in seconds since the epoch; None if an earlier call with the same idempotency key had
    #: queued these requests.
    created_s: float | None


@dataclass(slots=True, eq=False)
class Request:
    """One request that a worker holds, from the claim to the finish.

    `RedisQueue.claim` creates it. Later stages set the fields below ``place`` on the same object, and
    `RedisQueue.finish` stores it. A field that no stage has set yet raises `AttributeError`.
    """

    id: str
    #: Attempt token: proves which claim holds the request. `RedisQueue.finish` refuses any other.
    token: str
    #: Counted from 1.
    attempt: int
    #: Redis time of the submit, in seconds since the epoch.
    created_s: float
    #: Redis time after which the request must not start, in seconds since the epoch; None for no deadline.
    deadline_s: float | None
    #: ``<tenant>:<priority>``
    flow: str
    #: JSON object ``{"model", "input", "parameters"}``, encoded.
    payload: bytes
    #: Its cost, by which the queue counts it until it finishes.
    cost_tokens: int
    #: Length of the payload, in bytes.
    size_bytes: int
    #: Position in the claim, counted from 1; 0 for a request that no claim holds.
    place: int = 0
    #: Redis time at which a worker started the request, in seconds since the epoch; None if it never ran.
    started_s: float | None = None
    #: The measurements that a prediction shows.
    metrics: Mapping[str, Any] | None = None
    _call: dict[str, Any] | None = field(default=None, repr=False)
    #: What the engine prepared (`windrow.worker.engines.base.Prepared`).
    prepared: Any = field(init=False, repr=False)
    #: Time of the submit and of the claim on this process's `time.monotonic` clock.
    arrived_s: float = field(init=False, repr=False)
    claimed_s: float = field(init=False, repr=False)
    #: The outcome of the request: `Done` or `Failed`.
    outcome: Outcome = field(init=False, repr=False)
    #: The following are set in the step loop only. `time.monotonic` when the engine got the request, and when it gave
    #: its first and its latest tokens.
    added_s: float = field(init=False, repr=False)
    first_token_s: float | None = field(init=False, repr=False)
    last_token_s: float = field(init=False, repr=False)
    #: Number of requests in the engine, this one included, when it was added or when it finished, whichever was larger.
    concurrency: int = field(init=False, repr=False)
    #: Whether the engine had a free slot when it was added, so that it started at once.
    had_room: bool = field(init=False, repr=False)

    def call(self) -> dict[str, Any]:
        """Return the payload (``model``, ``input``, ``parameters``), which is decoded on the first call only."""
        if self._call is None:
            self._call = orjson.loads(self.payload)
        assert self._call is not None
        return self._call

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the call; empty if it has none."""
        return self.call().get("parameters") or {}

    @property
    def is_followed(self) -> bool:
        """Whether the request has an event stream."""
        return bool(self.call().get("stream"))

    def set_outcome(
        self, outcome: Outcome, started_s: float | None = None, metrics: Mapping[str, Any] | None = None
    ) -> Request:
        """Set the outcome and the metrics of the request, and return the request."""
        self.outcome, self.started_s, self.metrics = outcome, started_s, metrics
        return self


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim took, in fair order."""

    #: Redis time of the claim, in seconds since the epoch.
    now_s: float
    requests: list[Request]
    #: Whether suspected poison requests wait, which only a process that holds no other request may claim; see
    #: `RedisQueue.claim`.
    suspects_wait: bool = False
