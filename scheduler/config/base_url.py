"""The address of an HTTP server as settings have it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def parse_base_url(url: str) -> str:
    """Return ``url`` without a last slash. Raises `ValueError`, which repeats no password, for what is no address."""
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", url):
        raise ValueError("takes http:// or https://, a host, and a path where there is one")
    if "@" in url.split("/")[2]:
        raise ValueError("takes no user and no password, since keys stand in no file")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = "", 0
    if not host or port == 0:
        raise ValueError("takes a host, and behind it a port from 1 to 65535 or none")
    return url.rstrip("/")
