"""Redis' time without asking: what replies teach about it."""

import time

import pytest

from windrow.scheduler.connection.redis_clock import RedisClock


def test_the_clock_is_not_set_before_the_first_reply() -> None:
    clock = RedisClock()
    assert not clock.is_set
    clock.learn(1000.0)
    assert clock.is_set
    assert clock.now_s() == pytest.approx(1000.0, abs=5.0)


def test_a_slow_reply_does_not_set_the_clock_back() -> None:
    clock = RedisClock()
    clock.learn(time.monotonic() + 1000.0)
    clock.learn(time.monotonic() + 999.9)
    assert clock.offset_s == pytest.approx(1000.0, abs=0.05)


def test_a_clock_that_was_set_back_is_followed() -> None:
    clock = RedisClock()
    clock.learn(time.monotonic() + 1000.0)
    clock.learn(time.monotonic() + 400.0)
    assert clock.offset_s == pytest.approx(400.0, abs=5.0)
