"""Request headers and query parameters that change what a call does: their parsers and their OpenAPI parameters."""

from __future__ import annotations

import re
from typing import Any

from werkzeug.exceptions import NotAcceptable

from windrow.errors import MalformedRequest
from windrow.scheduler.queue.events import BEGINNING, PLACE

#: Longest time that a client may ask to wait, in seconds.
MAX_WAIT_S = 60
#: Longest deadline, in seconds: a week.
MAX_DEADLINE_S = 7 * 86_400.0

WAIT = re.compile(r"wait(?:\s*=\s*(?P<value>.*))?", re.IGNORECASE)
#: A preference defined by Windrow, beside ``wait``.
CANCEL_ON_DISCONNECT = "cancel-on-disconnect"
#: RFC 9110: optional white space around the commas of a list.
COMMA = re.compile(r"[ \t]*,[ \t]*")
DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?", re.ASCII)
#: `DURATION` for JSON Schema: also a plain number of seconds, and not zero.
DURATION_SCHEMA = "^(?=.*[1-9])([0-9]{1,9}|([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?)$"
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def parse_prefer(header: str | None) -> int | None:
    """Return the seconds of ``Prefer: wait=N`` (RFC 7240), or None without that preference.

    ``wait`` without a value means `MAX_WAIT_S`. Other preferences are ignored, as the RFC requires.
    """
    for preference in COMMA.split(header.strip()) if header else ():
        match = WAIT.fullmatch(preference.partition(";")[0].strip())
        if match:
            value = match["value"]
            return MAX_WAIT_S if value is None else parse_wait(value.strip('"'), "Prefer: wait")
    return None


def parse_cancel_on_disconnect(header: str | None) -> bool:
    """Return whether ``Prefer`` asks to cancel the prediction if the client disconnects while it waits."""
    preferences = COMMA.split(header.strip()) if header else ()
    return any(item.partition(";")[0].strip().lower() == CANCEL_ON_DISCONNECT for item in preferences)


def parse_wait(text: str, name: str) -> int:
    """Return whole seconds from 0 to `MAX_WAIT_S`; ``name`` is the parameter's name in the error."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > MAX_WAIT_S:
        raise MalformedRequest(f"{name} takes whole seconds from 0 to {MAX_WAIT_S}, not {text[:50]!r}")
    return int(text)


def parse_cancel_after(header: str | None) -> float | None:
    """Return the seconds of ``Cancel-After``: ``1m``, ``30s``, ``500ms``, ``1h30m`` or a number of seconds."""
    if header is None:
        return None
    text = header.strip()
    match = DURATION.fullmatch(f"{text}s" if text.isdigit() else text) if text else None
    if match is None:
        raise MalformedRequest(f"Cancel-After takes a duration such as 1m, 30s, 500ms or 1h30m, not {header[:50]!r}")
    hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
    duration_s = hours * 3600 + minutes * 60 + seconds + millis / 1000
    if not 0 < duration_s <= MAX_DEADLINE_S:
        raise MalformedRequest(f"Cancel-After takes a duration above 0 and up to 7 days, not {header[:50]!r}")
    return duration_s


def parse_idempotency_key(header: str | None) -> str | None:
    """Return the key: 1 to 255 visible ASCII characters."""
    if header is not None and not IDEMPOTENCY_KEY.fullmatch(header):
        raise MalformedRequest("Idempotency-Key takes 1 to 255 visible ASCII characters without spaces")
    return header


def parse_last_event_id(header: str | None) -> str:
    """Return the id of the last event that the client received; raises `MalformedRequest`."""
    if not header:  # browsers send an empty header before the first event
        return BEGINNING
    if not PLACE.fullmatch(header):
        raise MalformedRequest(f"Last-Event-ID takes the id of an event, such as 1769860800000-3, not {header[:50]!r}")
    return header


def wants_event_stream(accept: str | None) -> bool:
    """Return whether the client accepts only an event stream."""
    items = [item for item in COMMA.split(accept.strip()) if item] if accept else []
    return bool(items) and all(item.partition(";")[0].strip().lower() == "text/event-stream" for item in items)


def refuse_event_stream(accept: str | None) -> None:
    """Raise `NotAcceptable` if the client accepts only an event stream, on a route that has none."""
    if wants_event_stream(accept):
        raise NotAcceptable(
            "only POST /v1/predictions and GET /v1/predictions/{id}/events answer with an event stream; "
            "send Accept: application/json here"
        )


TEXT_SCHEMA = {"type": "string"}


def _header(name: str, description: str, *, pattern: str | None = None, example: str | None = None) -> dict[str, Any]:
    """Return the OpenAPI parameter of a request header."""
    schema = TEXT_SCHEMA | ({"pattern": pattern} if pattern else {})
    parameter = {"name": name, "in": "header", "schema": schema, "description": description}
    return parameter | ({"example": example} if example else {})


PREFER = _header(
    "Prefer",
    f"wait=N: answer 200 if the prediction finishes within N seconds, up to {MAX_WAIT_S} (wait alone means "
    f"{MAX_WAIT_S}). {CANCEL_ON_DISCONNECT}: cancel the prediction if the client disconnects while it waits.",
    example=f"wait=10, {CANCEL_ON_DISCONNECT}",
)
PREFER_CANCEL = _header(
    "Prefer",
    f"{CANCEL_ON_DISCONNECT}: cancel the prediction if the client disconnects while it waits (query parameter wait).",
    example=CANCEL_ON_DISCONNECT,
)
IDEMPOTENCY = _header(
    "Idempotency-Key",
    "The same key with the same body returns the first call's prediction; with another body the answer is 422.",
    pattern=f"^{IDEMPOTENCY_KEY.pattern}$",
)
CANCEL_AFTER = _header(
    "Cancel-After",
    "A request that has not started after this time expires. Up to 7 days; the shorter of it and deadline_ms applies.",
    pattern=DURATION_SCHEMA,
    example="1m",
)
LAST_EVENT_ID = _header(
    "Last-Event-ID",
    "The id of an event: the stream starts with the event after it.",
    pattern=f"^({PLACE.pattern})?$",
    example="1769860800000-3",
)
WAIT_QUERY = {
    "name": "wait", "in": "query", "description": "Seconds to wait for the prediction to finish.",
    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_S},
}  # fmt: skip
ID_PATH = {"name": "id", "in": "path", "required": True, "schema": TEXT_SCHEMA}
