"""What the clients raise. Every error carries the server's ``code``, or one of ours; docs/client.md lists them."""

from __future__ import annotations


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
