"""What both clients share of httpx: how a client is set up, how a call becomes a request, an answer a `Reply`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import httpx
import orjson

from windrow.client.protocol import HttpCall, NoReply, Reply

DEFAULT_URL = "http://127.0.0.1:8000"
API_KEY_VARIABLE = "WINDROW_API_KEY"
USER_AGENT = "windrow-python"
#: Raised before a byte of the request has left.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def client_options(base_url: str, timeout_s: float, api_key: str | None) -> dict[str, Any]:
    """Keyword arguments for `httpx.Client` and `httpx.AsyncClient`; ``api_key`` is else ``WINDROW_API_KEY``.

    Raises `ValueError` for a URL that is none, and for a key that no header can carry and that is not repeated.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        shown = "this" if "@" in base_url else repr(base_url)  # it may have a password
        raise ValueError(f"base_url: {shown} is no URL of a server; it takes one such as {DEFAULT_URL}")
    api_key = api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE) or None
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
    if api_key is not None:
        # httpx would quote it in its own error.
        if not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise ValueError(f"api_key ({API_KEY_VARIABLE}): takes visible ASCII characters and no white space")
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": url,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": not _is_loopback(url.host),
    }


def request_options(call: HttpCall, timeout_s: float) -> dict[str, Any]:
    """Keyword arguments for ``httpx.Client.build_request``."""
    headers: Mapping[str, str] = call.headers
    content = None
    if call.body is not None:
        content = orjson.dumps(call.body, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = {**headers, "Content-Type": "application/json"}
    return {
        "method": call.method,
        "url": call.path,
        "content": content,
        "headers": headers,
        "params": call.params,
        "timeout": httpx.Timeout(timeout_s + call.hold_s, connect=min(5.0, timeout_s)),
    }


def to_reply(response: httpx.Response) -> Reply:
    """What `protocol` needs of an answer."""
    return Reply(response.status_code, response.content, response.headers.get("Retry-After"))


def to_no_reply(error: httpx.TransportError, base_url: httpx.URL) -> NoReply:
    """What to tell the user of an answer that did not come."""
    base_url = base_url.copy_with(userinfo=b"")  # a URL may have a password
    if isinstance(error, NEVER_SENT):
        return NoReply(f"no server answers at {base_url}: {error or type(error).__name__}", was_sent=False)
    if isinstance(error, httpx.TimeoutException):
        return NoReply(f"{base_url} did not answer in time", was_sent=True)
    return NoReply(f"the connection to {base_url} broke: {error or type(error).__name__}", was_sent=True)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
