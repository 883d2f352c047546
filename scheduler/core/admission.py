"""`Quota`: the limits of a tenant in the queue of one model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one tenant on one model; None for no limit. Checked by the submit script, all or nothing."""

    #: Unfinished requests.
    max_in_flight: int | None = None
    #: Payload bytes of unfinished requests.
    max_bytes: int | None = None
    #: Requests per second, on average.
    requests_per_s: float | None = None
    #: Requests at once after a pause; by default those of one second.
    burst: int | None = None


#: No limits beyond those of the model.
UNLIMITED = Quota()
