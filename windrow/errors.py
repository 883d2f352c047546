"""Every error that Windrow reports, on the server and in the clients.

Each class has a stable ``code`` and a flag that says whether the same call may succeed later.
"""

from __future__ import annotations

from typing import ClassVar


class WindrowError(Exception):
    """Base of every error that Windrow reports.

    ``detail`` is the sentence a user reads: what was wrong and what is accepted.
    ``retry_after_s`` is set where the queue knows when a retry may succeed, in seconds.
    """

    code: ClassVar[str] = "internal"
    #: True when the same call, unchanged, may succeed later.
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class MalformedRequest(WindrowError):
    """The request could not be read at all: not JSON, NaN, nested too deep, a body shorter than announced."""

    code = "malformed_request"


class InvalidInput(WindrowError):
    """The request was read, but a field is missing, of the wrong type or out of range."""

    code = "invalid_input"


#: What is wrong with a text of which the tokenizer leaves nothing, in the one wording that every error has.
NO_TOKENS = "it has no tokens; this model takes at least one"
#: What to do about an input that is too long, in the same way.
TOO_LONG_ADVICE = "shorten it, or send parameters.truncate: true"


class InputTooLong(InvalidInput):
    """The input has more tokens than the model takes, and ``parameters.truncate`` was not asked for."""

    code = "input_too_long"


class IdempotencyConflict(InvalidInput):
    """The idempotency key was used before with another body."""

    code = "idempotency_conflict"


class PayloadTooLarge(WindrowError):
    """The body is larger than ``max_body_bytes``."""

    code = "payload_too_large"


class UnknownModel(WindrowError):
    """No model of that name is configured."""

    code = "unknown_model"


class UnknownPrediction(WindrowError):
    """The id was never issued, or belongs to another tenant."""

    code = "unknown_prediction"


class PredictionGone(WindrowError):
    """The id was issued, and its result has outlived its TTL."""

    code = "prediction_gone"


class QueueFull(WindrowError):
    """The model's queue holds as many requests or bytes as it may."""

    code = "queue_full"
    retryable = True


class QuotaExceeded(WindrowError):
    """The tenant has as many requests or bytes in flight, or sends as many a second, as it may."""

    code = "quota_exceeded"
    retryable = True


class Unauthorized(WindrowError):
    """No API key came, or none that is known."""

    code = "unauthorized"


class NoWorker(WindrowError):
    """No worker has served the model lately."""

    code = "no_worker"
    retryable = True


class RedisUnavailable(WindrowError):
    """Redis did not answer."""

    code = "redis_unavailable"
    retryable = True


class Stopping(WindrowError):
    """The server stops before the answer is there."""

    code = "stopping"
    retryable = True


class NewerRecord(WindrowError):
    """The request was taken in by another release, which runs beside this one during an upgrade."""

    code = "newer_record"
    retryable = True


class ModelFailed(WindrowError):
    """The model raised on this input, alone in its batch."""

    code = "model_failed"


class OutOfMemory(WindrowError):
    """The device ran out of memory on this input, alone in its batch."""

    code = "out_of_memory"


class AttemptsExhausted(WindrowError):
    """The worker died or lost its lease on every attempt."""

    code = "attempts_exhausted"


class DeadlineExceeded(WindrowError):
    """The request was not started before its deadline."""

    code = "deadline_exceeded"


class Canceled(WindrowError):
    """The request was canceled by its owner."""

    code = "canceled"


class UpstreamFailed(WindrowError):
    """The server behind a model of task ``upstream`` was away for too long, failed, or broke off its answer."""

    code = "upstream_failed"
    retryable = True


class ModelUnusable(WindrowError):
    """The model cannot be served: not found, not safetensors, or of another task."""

    code = "model_unusable"


class InvalidSetting(WindrowError):
    """A setting is unknown or malformed; the detail names it and what it takes."""

    code = "invalid_setting"


class ClientError(Exception):
    """Base of what `Client` and `AsyncClient` raise.

    ``detail`` is the sentence a user reads; ``status`` is the HTTP status where there was an answer; ``retry_after_s``
    is set where the server said when the same call may succeed.
    """

    def __init__(
        self, detail: str, *, code: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.detail} ({self.code})"


class ServerUnreachable(ClientError):
    """No answer came: connection refused, lost or too slow."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="server_unreachable")


class RequestRefused(ClientError):
    """The server answered with a problem (RFC 9457), or with something that is not ours at all."""


class PredictionFailed(ClientError):
    """The prediction ended without an output: failed, canceled or expired."""


class PredictionPending(ClientError):
    """The prediction has not ended yet; ask again with its id."""
