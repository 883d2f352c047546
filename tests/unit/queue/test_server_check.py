"""Which Redis is refused, told from what its INFO says."""

from typing import Any, cast

import pytest
from redis import Redis

from windrow.errors import InvalidSetting
from windrow.scheduler.connection.server_check import ServerCheck, check_server

GOOD = {"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "aof_enabled": 1}


class Server:
    """Says what INFO would."""

    def __init__(self, **info: Any) -> None:
        self.said = GOOD | info
        self.asked = 0

    def info(self) -> dict[str, Any]:
        self.asked += 1
        return self.said


def server(**info: Any) -> Redis:
    return cast(Redis, Server(**info))


@pytest.mark.parametrize("version", ["6.2.0", "6.2.14", "7.0.15", "7.4.2", "8.0.1", "10.0.0", "255.255.255"])
def test_redis_from_6_2_on_is_accepted(version: str) -> None:
    check_server(server(redis_version=version))


@pytest.mark.parametrize("version", ["2.8.24", "5.0.14", "6.0.20", "6.1.240", "", "unstable"])
def test_an_older_redis_is_refused_by_its_version(version: str) -> None:
    with pytest.raises(InvalidSetting, match=r"it takes 6\.2 or newer") as refused:
        check_server(server(redis_version=version))
    assert (version or "unknown") in refused.value.detail


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "allkeys-random", "volatile-ttl", "allkeys-lfu"])
def test_a_redis_that_may_evict_is_refused_with_the_line_to_change(policy: str, limit: int) -> None:
    with pytest.raises(InvalidSetting) as refused:
        check_server(server(maxmemory_policy=policy, maxmemory=limit))
    detail = refused.value.detail
    assert f"'maxmemory-policy {policy}'" in detail
    assert "'maxmemory-policy noeviction' into redis.conf" in detail
    assert "'redis-cli CONFIG SET maxmemory-policy noeviction'" in detail


def test_a_redis_without_an_append_only_file_is_accepted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_server(server())
    assert caplog.text == ""
    check_server(server(aof_enabled=0))
    assert "appendonly yes" in caplog.text


def test_a_server_is_checked_until_it_passes_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = Server(maxmemory_policy="allkeys-lru")
    check = ServerCheck(cast(Redis, asked))
    for _ in range(3):
        with pytest.raises(InvalidSetting):
            check.require()
    assert len(caplog.records) == 1
    asked.said = GOOD
    for _ in range(3):
        check.require()
    assert asked.asked == 4
