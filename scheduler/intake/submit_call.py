"""`SubmitCall`: inputs for one model, with the options that apply to all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from windrow.scheduler.tasks import Parameters


@dataclass(frozen=True, slots=True)
class SubmitCall:
    """Inputs for one model, to be queued together or not at all."""

    model: str
    inputs: Sequence[object]
    #: Parameters of the model's task, as `Intake.read_parameters` returns them.
    parameters: Parameters
    priority: str = "normal"
    #: Seconds from the submit to the deadline, after which no request must start; None for no deadline.
    deadline_s: float | None = None
    idempotency_key: str | None = None
    #: HTTPS URL that is called when each request finishes.
    webhook: str | None = None
    #: Whether to write an event stream, if the model's task supports it.
    is_followed: bool = False
    #: Whether the call may have several inputs: errors then name an input by its index, and the fingerprint differs
    #: from that of a call with the same single input.
    is_batch: bool = False
    #: Whether to queue the requests even if no worker has served the model lately. A model that workers could not load
    #: is refused all the same.
    waits_for_worker: bool = False
    #: For requests that were accepted before, such as dead letters: the cost of each, in tokens. Neither the inputs nor
    #: the limits of the queue and the tenant are checked again. None for a new call.
    admitted_costs: Sequence[int] | None = None

    def fingerprint(self, parameters: Mapping[str, Any]) -> str:
        """Return a hash that is equal for equal calls, whatever the order and spelling of their JSON.

        ``parameters`` are those of the call as JSON types.
        """
        parts = [self.is_batch, self.model, self.inputs, parameters, self.priority, self.deadline_s]
        parts += [] if self.webhook is None else [self.webhook]
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
