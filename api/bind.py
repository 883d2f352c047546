"""The address that the API listens on, and the rule that other machines need an API key.

Imported by gunicorn's master, so it must not import Flask or Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from windrow.api.auth.keys import Keys
from windrow.errors import InvalidSetting
from windrow.scheduler.config.settings import Settings


def check_bind(settings: Settings, hosts: Sequence[str] | None = None) -> None:
    """Raise `InvalidSetting` if other machines could send requests without a key, unless ``allow_no_keys`` is set.

    ``hosts`` are the hosts that the server listens on; by default, the setting ``host``.
    """
    if Keys(settings.tenants) or settings.allow_no_keys:
        return
    for host in [settings.host] if hosts is None else hosts:
        if is_loopback(host):
            continue
        raise InvalidSetting(
            f"host: {host!r} can be reached from other machines, and no API key is configured. "
            "Make one with `windrow key new --tenant NAME` and put it into windrow.toml, "
            "or set allow_no_keys = true (WINDROW_ALLOW_NO_KEYS=1) if something else restricts access"
        )


def bind_address(settings: Settings) -> str:
    """Return ``host:port`` in gunicorn's format."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


def hosts_of(addresses: Iterable[object]) -> list[str]:
    """Return the hosts among gunicorn's addresses; Unix sockets have none and are local."""
    return [str(address[0]) for address in addresses if isinstance(address, tuple)]


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``; False for every name except localhost."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
