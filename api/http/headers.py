"""Request headers and query values that change what a call does, as pure functions of their text."""

from __future__ import annotations

import re

from werkzeug.exceptions import NotAcceptable

from windrow.errors import MalformedRequest

#: Longest time a client may ask to wait, in seconds.
MAX_WAIT_S = 60
#: Longest deadline, in seconds: a week.
MAX_DEADLINE_S = 7 * 86_400.0

WAIT = re.compile(r"wait(?:\s*=\s*(?P<value>.*))?", re.IGNORECASE)
#: A preference of our own, beside ``wait``.
CANCEL_ON_DISCONNECT = "cancel-on-disconnect"
#: RFC 9110: optional white space round the commas of a list.
COMMA = re.compile(r"[ \t]*,[ \t]*")
DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?", re.ASCII)
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def parse_prefer(header: str | None) -> int | None:
    """Seconds to wait from ``Prefer: wait=N`` (RFC 7240); None where no wait is asked. Bare ``wait`` is the longest.

    Other preferences are ignored, as the RFC says.
    """
    for preference in COMMA.split(header.strip()) if header else ():
        match = WAIT.fullmatch(preference.partition(";")[0].strip())
        if match:
            value = match["value"]
            return MAX_WAIT_S if value is None else parse_wait(value.strip('"'), "Prefer: wait")
    return None


def parse_cancel_on_disconnect(header: str | None) -> bool:
    """Whether ``Prefer`` says that who hangs up while waiting wants the prediction no more."""
    preferences = COMMA.split(header.strip()) if header else ()
    return any(item.partition(";")[0].strip().lower() == CANCEL_ON_DISCONNECT for item in preferences)


def parse_wait(text: str, where: str) -> int:
    """Whole seconds from 0 to `MAX_WAIT_S`."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > MAX_WAIT_S:
        raise MalformedRequest(f"{where} takes whole seconds from 0 to {MAX_WAIT_S}, not {text[:50]!r}")
    return int(text)


def parse_cancel_after(header: str | None) -> float | None:
    """Seconds from ``Cancel-After``: ``1m``, ``30s``, ``500ms``, ``1h30m``, or a number of seconds."""
    if header is None:
        return None
    text = header.strip()
    match = DURATION.fullmatch(f"{text}s" if text.isdigit() else text) if text else None
    if match is None:
        raise MalformedRequest(f"Cancel-After takes a duration such as 1m, 30s, 500ms or 1h30m, not {header[:50]!r}")
    hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
    duration_s = hours * 3600 + minutes * 60 + seconds + millis / 1000
    if not 0 < duration_s <= MAX_DEADLINE_S:
        raise MalformedRequest(f"Cancel-After takes more than nothing and at most 7 days, not {header[:50]!r}")
    return duration_s


def parse_idempotency_key(header: str | None) -> str | None:
    """The key: 1 to 255 visible ASCII characters."""
    if header is not None and not IDEMPOTENCY_KEY.fullmatch(header):
        raise MalformedRequest("Idempotency-Key takes 1 to 255 visible ASCII characters without spaces")
    return header


def wants_event_stream(accept: str | None) -> bool:
    """Whether a client takes nothing but an event stream."""
    items = [item for item in COMMA.split(accept.strip()) if item] if accept else []
    return bool(items) and all(item.partition(";")[0].strip().lower() == "text/event-stream" for item in items)


def refuse_event_stream(accept: str | None) -> None:
    """Raise `NotAcceptable` for a client that takes nothing else, where there is none."""
    if wants_event_stream(accept):
        raise NotAcceptable(
            "event streams are the answer to POST /v1/predictions, and at /v1/predictions/{id}/events; "
            "accept application/json here"
        )
