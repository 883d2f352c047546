"""How the address of Redis is read, and what is never repeated of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.connection.redis_url import Login, parse_redis_url, without_password


def test_a_plain_url_names_a_server_a_database_and_a_login() -> None:
    where = parse_redis_url("redis://ann:p%40ss%2Fword@cache.example:6380/3")
    assert where.hosts == (("cache.example", 6380),)
    assert (where.db, where.service, where.tls) == (3, None, None)
    assert where.login == Login("ann", "p@ss/word")


@pytest.mark.parametrize("url", ["redis://", "redis://localhost", "redis://localhost:6379", "redis:///0", "redis:///"])
def test_missing_parts_have_the_defaults_of_redis_clients(url: str) -> None:
    where = parse_redis_url(url)
    assert (where.hosts, where.db, where.login) == ((("localhost", 6379),), 0, Login())


def test_a_url_of_sentinels_names_them_all_the_service_and_both_logins() -> None:
    where = parse_redis_url("redis+sentinel://:secret@a:1,[::1]:2,c/mymaster/4?sentinel_password=other")
    assert where.hosts == (("a", 1), ("::1", 2), ("c", 26379))
    assert (where.service, where.db) == ("mymaster", 4)
    assert (where.login, where.sentinel_login) == (Login(None, "secret"), Login(None, "other"))


def test_tls_certificates_are_checked_by_default_and_celerys_spelling_is_accepted() -> None:
    assert parse_redis_url("rediss://h").tls == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert parse_redis_url("rediss://h?ssl_cert_reqs=CERT_NONE").tls == {
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
    }
    where = parse_redis_url("rediss+sentinel://h/s?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false")
    assert where.tls == {"ssl_ca_certs": "/etc/ca.pem", "ssl_cert_reqs": "required", "ssl_check_hostname": False}


@pytest.mark.parametrize(
    ("url", "takes"),
    [
        ("amqp://hush@rabbit", "rediss:// for TLS"),
        ("redis:hush", "takes redis://"),
        ("redis://:hush#hush@host", "%23"),
        ("redis://:hu/sh@host:6379/0", "%2F"),
        ("redis://:hush?hush@host:6379/0", "%2F|unknown option"),
        ("redis://host:hush/0", "name:port"),
        ("redis://:hush@host:99999", "1 to 65535"),
        ("redis://:hush@host:6379/hush", "number of a database"),
        ("redis://:hush@a,b/0", "name:port"),
        ("redis://:hush@host?ssl_ca_certs=hush", "takes none"),
        ("redis://:hush@[::1/0", "has a host that cannot be read"),
        ("rediss://:hush@host?ssl_cert_reqs=hush", "required, optional, none"),
        ("rediss://:hush@host?ssl_check_hostname=hush", "true or false"),
        ("redis+sentinel://:hush@host:26379", "names no service"),
        ("redis+sentinel://:hush@host:26379/0/hush", "number of a database"),
        ("redis+sentinel://:hush@host:26379,/mymaster/0", "name:port"),
        ("redis+sentinel://host/mymaster/0?password=hush", "sentinel_username, sentinel_password"),
    ],
)
def test_the_error_for_a_malformed_url_has_no_part_of_the_password(url: str, takes: str) -> None:
    with pytest.raises(ValueError, match=takes) as refused:
        parse_redis_url(url)
    assert "hush" not in str(refused.value)


@given(st.text(max_size=60))
def test_any_other_text_raises_a_value_error(text: str) -> None:
    for url in (text, f"redis://{text}", f"redis+sentinel://{text}"):
        try:
            where = parse_redis_url(url)
        except ValueError:
            continue
        assert all(host and 0 < port < 65536 for host, port in where.hosts)


def test_a_parsed_url_can_be_printed_without_a_password() -> None:
    assert "hush" not in repr(parse_redis_url("redis+sentinel://u:hush@a/s?sentinel_password=hush"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hush@host:6379/0", "redis://***@host:6379/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis+sentinel://u:hush@a:1,b:2/s/0?sentinel_password=hush", "redis+sentinel://***@a:1,b:2/s/0"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert without_password(url) == shown
