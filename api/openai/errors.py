"""OpenAI's error format."""

from __future__ import annotations

import re

import orjson

from windrow import errors as core
from windrow.api.http.error_format import ErrorFormat
from windrow.api.openai.response_schemas import OpenAIError

#: Codes that programs written for OpenAI look for; all other codes are Windrow's.
CODES = {
    core.UnknownModel.code: "model_not_found",
    core.InputTooLong.code: "context_length_exceeded",
    core.Unauthorized.code: "invalid_api_key",
    core.QuotaExceeded.code: "rate_limit_exceeded",
}
#: A wrong field is named at the start of an error's detail.
FIELD = re.compile(r"([A-Za-z_][\w.]{0,127}): ")


def openai_error(status: int, detail: str, code: str) -> dict[str, object]:
    """Return the body of an error: ``{"error": {message, type, param, code}}``."""
    field = FIELD.match(detail)
    return {
        "error": {
            "message": detail,
            "type": _type(status),
            "param": field[1] if field and status < 500 else None,
            "code": CODES.get(code, code),
        }
    }


def openai_json(status: int, title: str, detail: str, code: str) -> bytes:
    """Encode `openai_error`; OpenAI's errors have no title."""
    return orjson.dumps(openai_error(status, detail, code))


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")


OPENAI = ErrorFormat(
    "application/json",
    OpenAIError,
    openai_json,
    statuses={422: 400},
    codes=CODES,
    # OpenAI's client repeats a call after 409 and every 5xx unless this header forbids it.
    no_retry_headers={"x-should-retry": "false"},
)
