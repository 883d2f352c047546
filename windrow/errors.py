"""All errors of Windrow: those of the server, which Celery results carry too, and those of the clients.

Importing this module needs no other package. Each server error has a stable ``code`` and a flag for retries.
"""

from __future__ import annotations

from typing import ClassVar


class WindrowError(Exception):
    """Base class of the server's errors.

    ``detail`` is the message for users: what is wrong and what is accepted. ``retry_after_s`` is the time after which a
    retry may succeed, in seconds, if the queue knows it.
    """

    code: ClassVar[str] = "internal"
    #: Whether the same call may succeed later.
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class MalformedRequest(WindrowError):
    """The request cannot be parsed: invalid JSON, NaN, too many levels, or a body shorter than its Content-Length."""

    code = "malformed_request"


class InvalidInput(WindrowError):
    """A field of the request is missing, of the wrong type or out of range."""

    code = "invalid_input"


#: The message for a text without tokens.
NO_TOKENS = "it has no tokens; this model takes at least one"
#: The advice for an input that is too long.
TOO_LONG_ADVICE = "shorten it, or send parameters.truncate: true"


class InputTooLong(InvalidInput):
    """The input has more tokens than the model accepts, and ``parameters.truncate`` is not set."""

    code = "input_too_long"


class IdempotencyConflict(InvalidInput):
    """The idempotency key was used with another body."""

    code = "idempotency_conflict"


class PayloadTooLarge(WindrowError):
    """The body is larger than ``max_body_bytes``."""

    code = "payload_too_large"


class UnknownModel(WindrowError):
    """No model of this name is configured."""

    code = "unknown_model"


class UnknownPrediction(WindrowError):
    """The id does not exist, or belongs to another tenant."""

    code = "unknown_prediction"


class PredictionGone(WindrowError):
    """The result of the prediction has expired."""

    code = "prediction_gone"


class QueueFull(WindrowError):
    """The queue of the model has reached its limit of requests or bytes."""

    code = "queue_full"
    retryable = True


class QuotaExceeded(WindrowError):
    """The tenant has reached its limit of requests in flight, bytes in flight or requests per second."""

    code = "quota_exceeded"
    retryable = True


class Unauthorized(WindrowError):
    """The API key is missing or unknown."""

    code = "unauthorized"


class NoWorker(WindrowError):
    """No worker serves the model."""

    code = "no_worker"
    retryable = True


class RedisUnavailable(WindrowError):
    """Redis did not answer."""

    code = "redis_unavailable"
    retryable = True


class Stopping(WindrowError):
    """The server is stopping before the request has finished."""

    code = "stopping"
    retryable = True


class NewerRecord(WindrowError):
    """The request was accepted by another release of Windrow, which shares the queue during an upgrade."""

    code = "newer_record"
    retryable = True


class ModelFailed(WindrowError):
    """The model raised an exception on this input in a batch of one."""

    code = "model_failed"


class OutOfMemory(WindrowError):
    """The device ran out of memory on this input in a batch of one."""

    code = "out_of_memory"


class AttemptsExhausted(WindrowError):
    """The worker died or lost its lease in every attempt."""

    code = "attempts_exhausted"


class DeadlineExceeded(WindrowError):
    """The request did not start before its deadline."""

    code = "deadline_exceeded"


class Canceled(WindrowError):
    """The request was canceled."""

    code = "canceled"


class UpstreamFailed(WindrowError):
    """The server of a model with task ``upstream`` was unreachable, failed, or interrupted its response."""

    code = "upstream_failed"
    retryable = True


class ModelUnusable(WindrowError):
    """The model cannot be served: it is missing, is not in safetensors format, or has another task."""

    code = "model_unusable"


class InvalidSetting(WindrowError):
    """A setting is unknown or invalid; the detail names the setting and the accepted values."""

    code = "invalid_setting"


class ClientError(Exception):
    """Base class of the errors of `Client` and `AsyncClient`.

    ``detail`` is the message for users. ``status`` is the HTTP status, if there was a response. ``retry_after_s`` is
    the time after which the server expects a retry to succeed, in seconds, or None.
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
    """The server did not respond: the connection was refused, lost or too slow."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="server_unreachable")


class RequestRefused(ClientError):
    """The server responded with a problem (RFC 9457), or the response does not come from Windrow."""


class PredictionFailed(ClientError):
    """The prediction finished without an output: it failed, was canceled or expired."""


class PredictionPending(ClientError):
    """The prediction has not finished; ask again with its id."""
