"""Validation of server addresses in settings."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def parse_base_url(url: str) -> str:
    """Return ``url`` without a trailing slash.

    Raises `ValueError`, whose message never repeats a password, if it is not the address of an HTTP server.
    """
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", url):
        raise ValueError("takes http:// or https://, a host, and optionally a path")
    if "@" in url.split("/")[2]:
        raise ValueError("takes no user and no password; put a key into the variable that api_key_env names")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = "", 0
    if not host or port == 0:
        raise ValueError("takes a host and optionally a port from 1 to 65535")
    return url.rstrip("/")
