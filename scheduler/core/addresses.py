"""`is_allowed`: whether a server may connect to an address that a client chose."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: IPv6 networks whose addresses contain the IPv4 address to which packets are sent, and the number of bits after it.
CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (IPv6Network("::ffff:0:0:0/96"), 0),  # translated, RFC 2765
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)
#: The only part of IPv6 that IANA has allocated as global unicast.
GLOBAL_UNICAST = IPv6Network("2000::/3")
#: Not public, although some Python releases classify it as such, or it is a service of the hosting platform.
NEVER_PUBLIC: tuple[Network, ...] = (
    IPv4Network("168.63.129.16/32"),  # Azure: WireServer
    IPv4Network("192.0.0.0/24"),  # protocol assignments, among them a metadata service
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, withdrawn
    IPv6Network("3fff::/20"),  # documentation, RFC 9637
)


def is_allowed(address: Address, networks: Sequence[Network] = ()) -> bool:
    """Return whether ``address`` is public or in one of ``networks``.

    An IPv6 address that contains an IPv4 address is treated as that address.
    """
    carried = carried_address(address)
    if any(candidate in network for candidate in (address, carried) for network in networks):
        return True
    if isinstance(carried, IPv6Address) and carried not in GLOBAL_UNICAST:
        return False
    special = carried.is_multicast or carried.is_reserved or any(carried in network for network in NEVER_PUBLIC)
    return carried.is_global and not special


def carried_address(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address contains; any other address is returned unchanged."""
    for network, bits_after in CARRIERS:
        if address in network:
            return IPv4Address((int(address) >> bits_after) & 0xFFFFFFFF)
    return address
