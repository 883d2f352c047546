"""Webhooks without I/O: valid URLs, signatures, and the decision after each delivery."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from windrow.backoff import Backoff
from windrow.errors import InvalidInput
from windrow.scheduler.core.addresses import Address, Network, is_allowed

MAX_URL_CHARACTERS = 2000
#: Printable ASCII without the backslash, which some URL parsers treat as a slash.
_URL = re.compile(r"[!-\[\]-~]+")
_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
#: Numbers that resolvers accept as an IPv4 address: 2130706433, 0x7f.1, 127.1, 0177.0.0.1.
_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
#: Suffixes of names that are not public.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")

MAX_TRIES = 8
#: Pauses between tries: 5 s, 25 s, 2 min, 10 min, 52 min, then an hour; each up to a fifth shorter or longer.
BACKOFF = Backoff(first_s=5.0, max_s=3600.0, factor=5.0, jitter=(0.8, 1.2))
#: The last try is this long before the result expires, in seconds.
LAST_TRY_S = 15.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The parts of a webhook URL."""

    #: Host name in lower case, or an address without brackets.
    host: str
    port: int
    #: Path and query, as in the request line.
    target: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver accepted the webhook."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again after ``after_s`` seconds."""

    after_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again."""

    reason: str


def parse_url(url: str, networks: Sequence[Network] = ()) -> Endpoint:
    """Parse a webhook URL; ``networks`` are allowed in addition to public addresses.

    Raises `InvalidInput` if it is not https, or if its host is not public as far as is known without a DNS query.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidInput(f"webhook: takes at most {MAX_URL_CHARACTERS} characters, not {len(url)}")
    if not _URL.fullmatch(url):
        raise InvalidInput("webhook: takes printable ASCII without spaces or backslashes; percent-encode the rest")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise InvalidInput(f"webhook: {error}") from None
    if parts.scheme != "https":
        raise InvalidInput("webhook: takes an https:// URL")
    if "@" in parts.netloc:
        raise InvalidInput("webhook: takes no user name or password; the signature identifies the sender")
    if port == 0:
        raise InvalidInput("webhook: port 0 cannot be connected to")
    _check_host(host, networks)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(host, port or 443, target)


def _check_host(host: str, networks: Sequence[Network]) -> None:
    address = _literal(host)
    if address is not None:
        if not is_allowed(address, networks):
            raise InvalidInput(f"webhook: {host} is not a public address, and webhook_networks does not name it")
    elif not _NAME.fullmatch(host) or _NUMERIC.fullmatch(host):
        raise InvalidInput("webhook: takes the name of a host, or an address as 192.0.2.1 or [2001:db8::1]")
    elif not networks and ("." not in host or host.endswith(_PRIVATE_SUFFIXES)):
        raise InvalidInput(f"webhook: {host} is not a name of the public Internet, and webhook_networks is empty")


def _literal(host: str) -> Address | None:
    if "%" in host:  # the zone of a link-local address
        return None
    try:
        return ip_address(host)
    except ValueError:
        return None


def refused_address(addresses: Sequence[Address], networks: Sequence[Network] = ()) -> Address | None:
    """Return the first of a host's ``addresses`` that is not allowed; one such address forbids the host."""
    return next((address for address in addresses if not is_allowed(address, networks)), None)


def secret_key(secret: str) -> bytes:
    """Return the signing key in a secret of Standard Webhooks; raises `ValueError` if the secret is malformed."""
    prefix, _, text = secret.partition("_")
    try:
        key = base64.b64decode(text, validate=True) if prefix == "whsec" else b""
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError("takes whsec_ followed by the base64 of 24 to 64 random bytes")
    return key


def signature(key: bytes, id: str, timestamp_s: int, body: bytes) -> str:
    """Return the ``webhook-signature`` header of Standard Webhooks 1.0.0: HMAC-SHA256 of ``id.timestamp.body``."""
    digest = hmac.new(key, f"{id}.{timestamp_s}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def decide_next(
    status: int | None, tries: int, *, left_s: float, jitter: float, retry_after_s: float | None = None
) -> Delivered | RetryAt | GiveUp:
    """Decide after a try that the receiver answered with ``status``; None for no answer.

    ``tries`` includes this try, ``left_s`` is the time until the result expires, and ``jitter`` is uniform in [0, 1].
    A redirect is not followed, and counts as a failure like every status outside 2xx.
    """
    if status is not None and 200 <= status <= 299:
        return Delivered()
    if status == 410:
        return GiveUp("the receiver answered 410 Gone")
    if tries >= MAX_TRIES:
        return GiveUp(f"{tries} tries failed")
    latest_s = left_s - LAST_TRY_S
    if latest_s < BACKOFF.pause_s(1, 0.0):
        return GiveUp(f"{tries} tries failed and the result is no longer kept")
    pause_s = max(BACKOFF.pause_s(tries, jitter), min(retry_after_s or 0.0, BACKOFF.max_s))
    return RetryAt(min(pause_s, latest_s))
