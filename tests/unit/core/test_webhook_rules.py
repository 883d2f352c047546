"""Webhooks without the network: URLs, signatures, what follows a try."""

from ipaddress import ip_address, ip_network

import pytest

from windrow.errors import InvalidInput
from windrow.scheduler.core.webhooks import (
    MAX_TRIES,
    Delivered,
    Endpoint,
    GiveUp,
    RetryAt,
    decide_next,
    parse_url,
    refused_address,
    secret_key,
    signature,
)

INNER = [ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8")]
PLENTY_S = 100_000.0
MIDDLE = 0.5


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://example.org", Endpoint("example.org", 443, "/")),
        ("https://Example.ORG:8443/hook?a=1&b=%20#part", Endpoint("example.org", 8443, "/hook?a=1&b=%20")),
        ("HTTPS://example.org?x", Endpoint("example.org", 443, "/?x")),
        ("https://1.1.1.1/", Endpoint("1.1.1.1", 443, "/")),
        ("https://[2606:4700::1111]:444/", Endpoint("2606:4700::1111", 444, "/")),
        ("https://xn--bcher-kva.example/", Endpoint("xn--bcher-kva.example", 443, "/")),
        ("https://7up.example/", Endpoint("7up.example", 443, "/")),
    ],
)
def test_an_https_url_is_taken_apart(url: str, endpoint: Endpoint) -> None:
    assert parse_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.org", "https://"),
        ("ftp://example.org", "https://"),
        ("//example.org/x", "https://"),
        ("example.org", "https://"),
        ("", "printable ASCII"),
        ("https://example.org/a b", "printable ASCII"),
        ("https://example.org/\r\nHost: x", "printable ASCII"),
        ("https://example.org/\t", "printable ASCII"),
        ("https://bücher.example/", "printable ASCII"),
        ("https://example.org\\@10.0.0.1/", "printable ASCII"),
        ("https://" + "a" * 2000, "at most 2000 characters"),
        ("https://user:secret@example.org/", "no user name"),
        ("https://@example.org/", "no user name"),
        ("https://", "name of a host"),
        ("https:///path", "name of a host"),
        ("https://:443/", "name of a host"),
        ("https://exa_mple..org/", "name of a host"),
        ("https://-a.org/", "name of a host"),
        ("https://example.org./", "name of a host"),
        ("https://example.org:0/", "port 0"),
        ("https://example.org:99999/", "ort"),
        ("https://example.org:x/", "ort"),
        ("https://[::1", "IPv6"),
        # What resolvers read as an address although it does not look like one.
        ("https://2130706433/", "name of a host"),
        ("https://0x7f.1/", "name of a host"),
        ("https://0x7f000001/", "name of a host"),
        ("https://0177.0.0.1/", "name of a host"),
        ("https://127.1/", "name of a host"),
        ("https://example.0x7f/", "name of a host"),
        ("https://[fe80::1%25eth0]/", "name of a host"),
        # What is seen not to be public.
        ("https://127.0.0.1/", "not a public address"),
        ("https://10.0.0.1/", "not a public address"),
        ("https://169.254.169.254/latest", "not a public address"),
        ("https://0.0.0.0/", "not a public address"),
        ("https://[::1]/", "not a public address"),
        ("https://[::ffff:127.0.0.1]/", "not a public address"),
        ("https://[64:ff9b::7f00:1]/", "not a public address"),
        ("https://localhost/", "not a name of the public Internet"),
        ("https://LOCALHOST:8443/", "not a name of the public Internet"),
        ("https://a.localhost/", "not a name of the public Internet"),
        ("https://metadata.google.internal/", "not a name of the public Internet"),
        ("https://printer.local/", "not a name of the public Internet"),
        ("https://redis/", "not a name of the public Internet"),
    ],
)
def test_any_other_url_is_refused_with_what_it_takes(url: str, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_url(url)
    assert raised.value.detail.startswith("webhook: ")
    assert says in raised.value.detail
    assert "secret" not in raised.value.detail


@pytest.mark.parametrize("url", ["https://10.1.2.3/", "https://localhost/", "https://receiver/", "https://a.internal/"])
def test_receivers_inside_are_taken_where_networks_are_named(url: str) -> None:
    parse_url(url, INNER)


def test_one_address_that_is_not_public_spoils_all_of_a_name() -> None:
    public, inner = ip_address("93.184.216.34"), ip_address("10.0.0.1")
    assert refused_address([public]) is None
    assert refused_address([public, inner]) == inner
    assert refused_address([public, inner], INNER) is None


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example of the specification's reference libraries.
    key = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64"])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes"):
        secret_key(secret)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_delivered_even_at_the_last_moment(status: int) -> None:
    assert decide_next(status, MAX_TRIES, left_s=0.0, jitter=MIDDLE) == Delivered()


@pytest.mark.parametrize("status", [None, 100, 301, 302, 307, 400, 404, 429, 500, 503])
def test_any_other_answer_and_none_is_tried_again(status: int | None) -> None:
    assert decide_next(status, 1, left_s=PLENTY_S, jitter=MIDDLE) == RetryAt(5.0)


def test_gone_is_never_tried_again() -> None:
    assert isinstance(decide_next(410, 1, left_s=PLENTY_S, jitter=MIDDLE), GiveUp)


@pytest.mark.parametrize(
    ("tries", "after_s"), [(1, 5.0), (2, 25.0), (3, 125.0), (4, 625.0), (5, 3125.0), (6, 3600.0), (7, 3600.0)]
)
def test_pauses_grow_to_an_hour(tries: int, after_s: float) -> None:
    assert decide_next(500, tries, left_s=PLENTY_S, jitter=MIDDLE) == RetryAt(after_s)


def test_pauses_are_up_to_a_fifth_shorter_or_longer() -> None:
    assert decide_next(500, 2, left_s=PLENTY_S, jitter=0.0) == RetryAt(pytest.approx(20.0))
    assert decide_next(500, 2, left_s=PLENTY_S, jitter=1.0) == RetryAt(pytest.approx(30.0))


def test_after_so_many_tries_it_is_given_up() -> None:
    assert isinstance(decide_next(500, MAX_TRIES, left_s=PLENTY_S, jitter=MIDDLE), GiveUp)


def test_the_last_try_comes_before_the_result_goes() -> None:
    assert decide_next(500, 5, left_s=120.0, jitter=MIDDLE) == RetryAt(105.0)
    assert isinstance(decide_next(500, 5, left_s=18.0, jitter=MIDDLE), GiveUp)


@pytest.mark.parametrize(("asked_s", "after_s"), [(1.0, 5.0), (90.0, 90.0), (1e9, 3600.0)])
def test_retry_after_makes_a_pause_longer_within_bounds(asked_s: float, after_s: float) -> None:
    assert decide_next(503, 1, left_s=PLENTY_S, jitter=MIDDLE, retry_after_s=asked_s) == RetryAt(after_s)
