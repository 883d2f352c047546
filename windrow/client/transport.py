"""The use of httpx that both clients share: client options, requests and replies."""

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
#: Raised before any byte of the request is sent.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def client_options(base_url: str, timeout_s: float, api_key: str | None) -> dict[str, Any]:
    """Return keyword arguments for `httpx.Client` and `httpx.AsyncClient`; ``api_key`` defaults to ``WINDROW_API_KEY``.

    Raises `ValueError` for an invalid URL, and for an API key that no header can carry; the message omits the key.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        shown = "this" if "@" in base_url else repr(base_url)  # the URL may contain a password
        raise ValueError(f"base_url: {shown} is not the URL of a server; takes a URL such as {DEFAULT_URL}")
    api_key = api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE) or None
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
    if api_key is not None:
        # Checked here because the error of httpx would quote the key.
        if not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise ValueError(f"api_key ({API_KEY_VARIABLE}): takes visible ASCII characters without white space")
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": url,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
        # A proxy from the environment cannot reach the loopback interface of this machine.
        "trust_env": not _is_loopback(url.host),
    }


def request_options(call: HttpCall, timeout_s: float) -> dict[str, Any]:
    """Return keyword arguments for ``httpx.Client.build_request``."""
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
    """Return the parts of a response that `protocol` reads."""
    return Reply(response.status_code, response.content, response.headers.get("Retry-After"))


def to_no_reply(error: httpx.TransportError, base_url: httpx.URL) -> NoReply:
    """Describe a failed request for the user."""
    base_url = base_url.copy_with(userinfo=b"")  # the URL may contain a password
    if isinstance(error, NEVER_SENT):
        return NoReply(f"no server answers at {base_url}: {error or type(error).__name__}", was_sent=False)
    if isinstance(error, httpx.TimeoutException):
        return NoReply(f"{base_url} did not answer in time", was_sent=True)
    return NoReply(f"the connection to {base_url} was lost: {error or type(error).__name__}", was_sent=True)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
