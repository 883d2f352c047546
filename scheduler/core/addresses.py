"""Which addresses a server may be asked to connect to: those of the public Internet, and those it is told of."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: IPv6 networks whose addresses stand for an IPv4 address, and how many bits follow it: a packet ends up there.
CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (IPv6Network("::ffff:0:0:0/96"), 0),  # translated, RFC 2765
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)
#: The only part of IPv6 that IANA has given out as global unicast.
GLOBAL_UNICAST = IPv6Network("2000::/3")
#: Not public although the standard library of some Python releases says so, or the host's own platform answers there.
NEVER_PUBLIC: tuple[Network, ...] = (
    IPv4Network("168.63.129.16/32"),  # Azure: WireServer
    IPv4Network("192.0.0.0/24"),  # protocol assignments, among them a metadata service
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, withdrawn
    IPv6Network("3fff::/20"),  # documentation, RFC 9637
)


def is_allowed(address: Address, networks: Sequence[Network] = ()) -> bool:
    """Whether ``address`` is public, or lies in one of ``networks``.

    An IPv6 address that stands for an IPv4 address is judged as that one.
    """
    carried = carried_address(address)
    if any(one in network for one in (address, carried) for network in networks):
        return True
    if isinstance(carried, IPv6Address) and carried not in GLOBAL_UNICAST:
        return False
    special = carried.is_multicast or carried.is_reserved or any(carried in network for network in NEVER_PUBLIC)
    return carried.is_global and not special


def carried_address(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for; any other address is returned as it is."""
    for network, bits_after in CARRIERS:
        if address in network:
            return IPv4Address((int(address) >> bits_after) & 0xFFFFFFFF)
    return address
