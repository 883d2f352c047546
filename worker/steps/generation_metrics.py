"""Measures the requests of a model that generates, and refuses those that cannot meet their deadline."""

from __future__ import annotations

import time
from collections.abc import Mapping

from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.queue import Request
from windrow.scheduler.queue.metrics import TIMES
from windrow.scheduler.queue.redis_queue import expired
from windrow.scheduler.stepping.generation_time import GenerationTime
from windrow.scheduler.tasks.generate import read_parameters
from windrow.worker.process.model_status import ModelStatus, milliseconds

#: A metric of a prediction, also published in its event stream.
TIME_TO_FIRST_TOKEN = "time_to_first_token_ms"


class GenerationMetrics:
    """Metrics of the predictions of one model. The caller serializes the calls."""

    def __init__(self, status: ModelStatus) -> None:
        self._status = status
        self._time = GenerationTime()

    def reset(self) -> None:
        """Forget the measured times, because another engine takes over."""
        self._time = GenerationTime()

    def refuse_late(self, request: Request, redis_now_s: float, running: int) -> Failed | None:
        """Return the error for a request that cannot end before its deadline while ``running`` others run, or None."""
        if request.deadline_s is None:
            return None
        left_s = request.deadline_s - redis_now_s
        if left_s <= 0:
            return expired()
        parameters = read_parameters(request.parameters)
        max_tokens = parameters.wanted_tokens
        min_tokens = max_tokens if parameters.ignore_eos else parameters.min_tokens
        return self._time.refuse_late(left_s, time.monotonic(), running, min_tokens, max_tokens)

    def record_first_token(self, request: Request, now_s: float) -> float:
        """Record that the first token is there; return the time since the submit, in milliseconds."""
        request.first_token_s = request.last_token_s = now_s
        first_s = now_s - request.arrived_s
        self._status.observed.observe("first_token", max(0.0, first_s))
        self._status.observed.count_tokens("prompt", request.prepared.tokens)
        return milliseconds(first_s)

    def record_intervals(self, intervals_s: Mapping[float, int]) -> None:
        """Record the times between tokens: seconds -> number of tokens."""
        for interval_s, tokens in intervals_s.items():
            self._status.observed.observe("inter_token", interval_s, tokens)

    def record_outcome(self, request: Request, outcome: Outcome, now_s: float, started_s: float) -> None:
        """Set the outcome and the metrics of a request; ``started_s`` is the Redis time at which it joined."""
        observed, arrived_s, first_s = self._status.observed, request.arrived_s, request.first_token_s
        times_s = (
            request.claimed_s - arrived_s, request.added_s - request.claimed_s,
            now_s - request.added_s, now_s - arrived_s,
        )  # fmt: skip
        for name, seconds in zip(TIMES, times_s, strict=True):
            observed.observe(name, seconds)
        queue_s, batch_wait_s, compute_s, total_s = times_s
        metrics = {
            "queue_ms": milliseconds(queue_s),
            "batch_wait_ms": milliseconds(batch_wait_s),
            "compute_ms": milliseconds(compute_s),
            "total_ms": milliseconds(total_s),
            "attempts": request.attempt,
            "worker": self._status.worker,
        }
        if isinstance(outcome, Done) and first_s is not None:
            usage, choices = outcome.output["usage"], outcome.output.get("choices", [outcome.output])
            tokens, rest_s = max(1, usage["completion_tokens"] // len(choices)), now_s - first_s
            prefill_s = first_s - request.added_s if request.had_room else None
            self._time = self._time.record(now_s, request.concurrency, tokens, prefill_s, rest_s)
            observed.count_tokens("completion", usage["completion_tokens"])
            observed.count_tokens("cached", usage["cached_tokens"])
            metrics[TIME_TO_FIRST_TOKEN] = milliseconds(first_s - arrived_s)
            if tokens > 1:
                metrics["inter_token_ms"] = milliseconds(rest_s / (tokens - 1))
        request.set_outcome(outcome, started_s, metrics)
