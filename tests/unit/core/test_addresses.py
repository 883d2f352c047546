"""The addresses that webhooks and upstream connections may use."""

from ipaddress import ip_address, ip_network

import pytest

from windrow.scheduler.core.addresses import is_allowed

INNER = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.7"),
    *("203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1"),
    *("3fff::1", "5f00::1", "4000::1", "2001::1", "2001:10::1", "64:ff9b:1::7f00:1"),
    # IPv4 addresses embedded in IPv6 addresses.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "64:ff9b::5db8:d822"]
PUBLIC += ["::ffff:93.184.216.34", "2002:5db8:d822::1"]


@pytest.mark.parametrize("text", INNER)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert not is_allowed(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_allowed(text: str) -> None:
    assert is_allowed(ip_address(text))


@pytest.mark.parametrize("text", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1"])
def test_an_allowed_network_also_allows_its_ipv6_embedded_addresses(text: str) -> None:
    assert is_allowed(ip_address(text), [ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def test_an_allowed_network_allows_no_other_network() -> None:
    assert not is_allowed(ip_address("192.168.0.1"), [ip_network("10.0.0.0/8")])
