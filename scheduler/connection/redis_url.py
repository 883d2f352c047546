"""`parse_redis_url`: the address of one Redis server, or of the Sentinels that know the master.

    redis://[user:password@]host[:6379]/[db]
    redis+sentinel://[user:password@]host[:26379][,host...]/service[/db][?sentinel_username=...&sentinel_password=...]

``rediss`` instead of ``redis`` means TLS, for Sentinels too, and accepts the ``ssl_*`` arguments of redis-py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlunsplit

FORMS = (
    "redis://[user:password@]host:6379/db, rediss:// for TLS, or "
    "redis+sentinel://[user:password@]host:26379,host:26379/service/db"
)
SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
CERT_REQS = ("required", "optional", "none")
SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
#: Not `urllib.parse.urlsplit`: some releases of Python refuse a list of hosts with an IPv6 address in it.
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
HOST = re.compile(r"\[([0-9A-Fa-f:.%]+)\](?::(\d{1,5}))?|([A-Za-z0-9._-]+)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Login:
    """A Redis user (None for the default user) and password; neither appears in the repr."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """The parts of a ``redis_url``."""

    #: Host and port of the server, or of each Sentinel if ``service`` is set.
    hosts: tuple[tuple[str, int], ...]
    db: int = 0
    login: Login = Login()
    #: Name of the master in the Sentinels; None without Sentinels.
    service: str | None = None
    sentinel_login: Login = Login()
    #: The ``ssl_*`` arguments of redis-py's connections, ``ssl_cert_reqs`` always among them; None without TLS.
    tls: Mapping[str, str | bool] | None = None


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a URL. Raises `ValueError` with what is accepted, and never quotes the URL, which may hold a password."""
    parts = _split(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"takes {FORMS}")
    if parts.fragment or "#" in url:
        raise ValueError("has a '#'; a password with one is written with %23 in its place")
    is_sentinel = parts.scheme.endswith("+sentinel")
    login, _, hosts = parts.netloc.rpartition("@")
    service, db = _path(parts, is_sentinel)
    tls, sentinel_login = _options(parts, is_sentinel)
    return RedisUrl(_hosts(hosts, is_sentinel), db, _login(login), service, sentinel_login, tls)


def without_password(url: str) -> str:
    """Return ``url`` without its password, for output."""
    parts = _split(url)
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"***@{host}" if at else host, query=""))


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; the scheme is empty if ``url`` is not one."""
    match = URL.fullmatch(url)
    if match is None:
        return SplitResult("", "", url, "", "")
    scheme, *rest = match.groups(default="")
    return SplitResult(scheme.lower(), *rest)


def _hosts(text: str, is_sentinel: bool) -> tuple[tuple[str, int], ...]:
    names = text.split(",") if is_sentinel else [text or "localhost"]
    found = []
    for name in names:
        match = HOST.fullmatch(name)
        if match is None:
            raise ValueError(
                "has a host that cannot be read; it takes name:port, [IPv6]:port, and in a password %2F for '/', "
                "%40 for '@' and %3A for ':'"
            )
        port = int(match[2] or match[4] or (26379 if is_sentinel else 6379))
        if not 0 < port < 65536:
            raise ValueError("has an invalid port; ports are 1 to 65535")
        found.append((match[1] or match[3], port))
    return tuple(found)


def _login(text: str) -> Login:
    username, _, password = text.partition(":")
    return Login(unquote(username) or None, unquote(password) or None)


def _path(parts: SplitResult, is_sentinel: bool) -> tuple[str | None, int]:
    path = parts.path.removeprefix("/")
    service, db = None, path
    if is_sentinel:
        service, _, db = path.partition("/")
        service = unquote(service)
        if not service:
            raise ValueError("names no service; it takes redis+sentinel://host:26379/service/db")
    if db and not re.fullmatch(r"\d{1,5}", db):
        raise ValueError("has no number of a database at its end; it takes .../0, and in a password %2F for '/'")
    return service, int(db or 0)


def _options(parts: SplitResult, is_sentinel: bool) -> tuple[dict[str, str | bool] | None, Login]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    is_tls = parts.scheme.startswith("rediss")
    accepted: tuple[str, ...] = (*TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname") if is_tls else ()
    accepted += SENTINEL_LOGIN if is_sentinel else ()
    if unknown := [name for name in options if name not in accepted]:
        # The names are not quoted, because they may be the rest of a password with a '?' in it.
        names = ", ".join(accepted) or "none"
        raise ValueError(f"has {len(unknown)} unknown option(s) behind the '?'; {parts.scheme}:// takes {names}")
    sentinel_login = Login(options.get("sentinel_username"), options.get("sentinel_password"))
    if not is_tls:
        return None, sentinel_login
    tls: dict[str, str | bool] = {name: options[name] for name in TLS_FILES if options.get(name)}
    # Celery's spelling is CERT_REQUIRED.
    reqs = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if reqs not in CERT_REQS:
        raise ValueError(f"ssl_cert_reqs takes {', '.join(CERT_REQS)}")
    tls["ssl_cert_reqs"] = reqs
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "false"):
        raise ValueError("ssl_check_hostname takes true or false")
    tls["ssl_check_hostname"] = check == "true" and reqs != "none"
    return tls, sentinel_login
