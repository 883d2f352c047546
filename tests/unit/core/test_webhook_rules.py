"""Webhook rules without the network: URLs, signatures and retries."""

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
def test_an_https_url_is_parsed_into_host_port_and_target(url: str, endpoint: Endpoint) -> None:
    assert parse_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "message"),
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
        # Resolvers parse these as IP addresses although they do not look like one.
        ("https://2130706433/", "name of a host"),
        ("https://0x7f.1/", "name of a host"),
        ("https://0x7f000001/", "name of a host"),
        ("https://0177.0.0.1/", "name of a host"),
        ("https://127.1/", "name of a host"),
        ("https://example.0x7f/", "name of a host"),
        ("https://[fe80::1%25eth0]/", "name of a host"),
        # These addresses and names are not public.
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
def test_an_invalid_url_is_refused_with_the_accepted_form(url: str, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_url(url)
    assert raised.value.detail.startswith("webhook: ")
    assert message in raised.value.detail
    assert "secret" not in raised.value.detail


@pytest.mark.parametrize("url", ["https://10.1.2.3/", "https://localhost/", "https://receiver/", "https://a.internal/"])
def test_private_receivers_are_accepted_if_webhook_networks_is_set(url: str) -> None:
    parse_url(url, INNER)


def test_a_host_is_refused_if_any_of_its_addresses_is_not_public() -> None:
    public, inner = ip_address("93.184.216.34"), ip_address("10.0.0.1")
    assert refused_address([public]) is None
    assert refused_address([public, inner]) == inner
    assert refused_address([public, inner], INNER) is None


def test_the_signature_matches_the_standard_webhooks_example() -> None:
    # This example is from the reference libraries of the specification.
    key = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64"])
def test_an_invalid_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes"):
        secret_key(secret)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_status_counts_as_delivered_even_after_the_last_try(status: int) -> None:
    assert decide_next(status, MAX_TRIES, left_s=0.0, jitter=MIDDLE) == Delivered()


@pytest.mark.parametrize("status", [None, 100, 301, 302, 307, 400, 404, 429, 500, 503])
def test_another_status_or_no_response_is_retried(status: int | None) -> None:
    assert decide_next(status, 1, left_s=PLENTY_S, jitter=MIDDLE) == RetryAt(5.0)


def test_status_410_is_never_retried() -> None:
    assert isinstance(decide_next(410, 1, left_s=PLENTY_S, jitter=MIDDLE), GiveUp)


@pytest.mark.parametrize(
    ("tries", "after_s"), [(1, 5.0), (2, 25.0), (3, 125.0), (4, 625.0), (5, 3125.0), (6, 3600.0), (7, 3600.0)]
)
def test_pauses_grow_up_to_an_hour(tries: int, after_s: float) -> None:
    assert decide_next(500, tries, left_s=PLENTY_S, jitter=MIDDLE) == RetryAt(after_s)


def test_jitter_changes_pauses_by_up_to_a_fifth() -> None:
    assert decide_next(500, 2, left_s=PLENTY_S, jitter=0.0) == RetryAt(pytest.approx(20.0))
    assert decide_next(500, 2, left_s=PLENTY_S, jitter=1.0) == RetryAt(pytest.approx(30.0))


def test_a_delivery_is_given_up_after_the_maximum_number_of_tries() -> None:
    assert isinstance(decide_next(500, MAX_TRIES, left_s=PLENTY_S, jitter=MIDDLE), GiveUp)


def test_the_last_try_is_made_before_the_result_expires() -> None:
    assert decide_next(500, 5, left_s=120.0, jitter=MIDDLE) == RetryAt(105.0)
    assert isinstance(decide_next(500, 5, left_s=18.0, jitter=MIDDLE), GiveUp)


@pytest.mark.parametrize(("asked_s", "after_s"), [(1.0, 5.0), (90.0, 90.0), (1e9, 3600.0)])
def test_retry_after_lengthens_a_pause_up_to_an_hour(asked_s: float, after_s: float) -> None:
    assert decide_next(503, 1, left_s=PLENTY_S, jitter=MIDDLE, retry_after_s=asked_s) == RetryAt(after_s)
