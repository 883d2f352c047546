"""What a tenant may have in the queue of one model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one tenant on one model; None for no limit. Checked by the submit script, all or nothing."""

    #: Requests accepted and not ended.
    max_in_flight: int | None = None
    #: Payload bytes accepted and not ended.
    max_bytes: int | None = None
    #: Requests a second, in the long run.
    requests_per_s: float | None = None
    #: Requests at once after a pause; a second's worth where it is None.
    burst: int | None = None


#: No limit but the model's own.
UNLIMITED = Quota()
