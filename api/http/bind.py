"""Where the API listens, and whether it may. gunicorn's master imports this: neither Flask nor Redis is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from windrow.api.auth.keys import Keys
from windrow.errors import InvalidSetting
from windrow.scheduler.config.settings import Settings


def check_bind(settings: Settings, hosts: Sequence[str] | None = None) -> None:
    """Raise `InvalidSetting` where other machines could send without a key, and nobody said that they may.

    ``hosts`` are those that the server listens on where that is known, else it is the setting.
    """
    if Keys(settings.tenants) or settings.allow_no_keys:
        return
    for host in [settings.host] if hosts is None else hosts:
        if is_loopback(host):
            continue
        raise InvalidSetting(
            f"host: {host!r} can be reached from other machines, and no API key is configured. "
            "Make one with `windrow key new --tenant NAME` and put it into windrow.toml, "
            "or set allow_no_keys = true (WINDROW_ALLOW_NO_KEYS=1) where something else keeps strangers out"
        )


def bind_address(settings: Settings) -> str:
    """``host:port`` as gunicorn takes it."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


def hosts_of(addresses: Iterable[object]) -> list[str]:
    """The hosts among gunicorn's addresses: pairs of host and port. Sockets in the file system are nobody else's."""
    return [str(address[0]) for address in addresses if isinstance(address, tuple)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. A name other than localhost may be anything, so it is not."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
