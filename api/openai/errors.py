"""OpenAI's error body, and what of an error its client is told in another way than ours."""

from __future__ import annotations

import re

import orjson

from windrow import errors as core

#: The routes whose errors have OpenAI's body, and what those of one model start with.
PATHS = frozenset({"/v1/embeddings", "/v1/completions", "/v1/chat/completions"})
MODEL_PATH = "/v1/models/"
#: Codes that programs written for OpenAI look for; every other one is ours.
CODES = {
    core.UnknownModel.code: "model_not_found",
    core.InputTooLong.code: "context_length_exceeded",
    core.Unauthorized.code: "invalid_api_key",
    core.QuotaExceeded.code: "rate_limit_exceeded",
}
#: OpenAI's client sends a call again after 409 and from 500 on; what cannot succeed says so with this header.
SHOULD_RETRY = "x-should-retry"
#: An error's detail starts with the field that is wrong, where it is one.
FIELD = re.compile(r"([A-Za-z_][\w.]{0,127}): ")


def is_openai_path(path: str) -> bool:
    """Whether errors at ``path`` have OpenAI's body."""
    return path in PATHS or path.startswith(MODEL_PATH)


def openai_status(status: int) -> int:
    """The status that OpenAI has for it: what is invalid is a 400."""
    return 400 if status == 422 else status


def openai_error(status: int, detail: str, code: str) -> dict[str, object]:
    """The body of an error: ``{"error": {message, type, param, code}}``."""
    field = FIELD.match(detail)
    return {
        "error": {
            "message": detail,
            "type": _type(status),
            "param": field[1] if field and status < 500 else None,
            "code": CODES.get(code, code),
        }
    }


def openai_json(status: int, detail: str, code: str) -> bytes:
    """The same, encoded."""
    return orjson.dumps(openai_error(status, detail, code))


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
