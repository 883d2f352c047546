"""Responses that several groups of routes send: JSON documents and event streams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson
from flask import Response, request
from werkzeug.datastructures import Headers
from werkzeug.sansio.utils import get_current_url

EVENT_STREAM = "text/event-stream"
#: An event stream without an event for this long, in seconds, sends `KEEP_ALIVE`, so that proxies keep the connection.
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": \n\n"


class JsonResponse(Response):
    """A response whose headers are sent as they are.

    Werkzeug computes ``Content-Length`` when the body is set; its other checks are for redirects, empty responses and
    bodies of unknown length.
    """

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """Return the headers unchanged."""
        return self.headers


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``value`` as a JSON document."""
    return JsonResponse(orjson.dumps(value), status, headers, content_type="application/json")


def event_stream_response(
    chunks: Iterable[bytes], headers: Mapping[str, str], content_type: str = EVENT_STREAM
) -> Response:
    """Return server-sent events, each sent as soon as ``chunks`` yields it; no cache or proxy may hold them back."""
    unbuffered = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(chunks, 200, unbuffered | dict(headers), content_type=content_type)


def whole_seconds(seconds: float | None) -> str:
    """Return the value of a ``Retry-After`` header: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds or 1)))


def base_url() -> str:
    """Return the address of this server as the current request names it, without a slash at the end."""
    return _base_url(request.scheme, request.host)


@lru_cache(maxsize=256)
def _base_url(scheme: str, host: str) -> str:
    return get_current_url(scheme, host).rstrip("/")
