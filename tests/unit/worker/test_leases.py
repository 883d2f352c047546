"""The leases of one process after a claim, a renewal, a release and a finish."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from windrow.scheduler.queue import Claim
from windrow.worker.leases.leases import Leases


class Queue:
    """A queue that returns the given claims in order and reports the leases in ``expired`` as lost."""

    def __init__(self, *claims: dict[str, str]) -> None:
        self.clock = SimpleNamespace(now_s=lambda: 0.0, offset_s=0.0)
        self.claims = list(claims)
        self.expired: set[str] = set()
        self.finish_options: list[Mapping[str, object]] = []

    def claim(self, count: int, **options: object) -> Claim:
        requests: list[Any] = [SimpleNamespace(id=id, token=token) for id, token in self.claims.pop(0).items()]
        return Claim(0.0, requests)

    def renew(self, held: Mapping[str, str], *, lease_s: float) -> list[str]:
        return [id for id in held if id in self.expired]

    def release(self, held: Mapping[str, str]) -> None: ...

    def finish(self, finished: object, **options: object) -> None:
        self.finish_options.append(options)


@pytest.fixture
def queue() -> Queue:
    return Queue({"a": "1", "b": "1"}, {"a": "2"})


@pytest.fixture
def leases(queue: Queue) -> Leases:
    return Leases(queue, 15.0)  # type: ignore[arg-type]


def test_a_claimed_request_is_leased_until_it_is_released_or_finished(leases: Leases, queue: Queue) -> None:
    leases.claim(2, blocking=False)
    assert leases.held == {"a": "1", "b": "1"}
    leases.release({"a": "1"})
    finished: Any = SimpleNamespace(id="b", token="1")
    leases.finish([finished], may_stream=True)
    assert leases.is_idle
    assert queue.finish_options == [{"busy_s": 0.0, "may_stream": True}]


def test_renewal_removes_and_reports_lost_leases(leases: Leases, queue: Queue) -> None:
    lost: list[tuple[str, str]] = []
    leases.on_lost = lambda id, token: lost.append((id, token))
    leases.claim(2, blocking=False)
    queue.expired = {"b"}
    leases.renew()
    assert lost == [("b", "1")]
    assert leases.held == {"a": "1"}


def test_a_claim_reports_an_earlier_attempt_of_the_same_request_as_lost(leases: Leases) -> None:
    lost: list[tuple[str, str]] = []
    leases.on_lost = lambda id, token: lost.append((id, token))
    leases.claim(2, blocking=False)
    leases.claim(2, blocking=False)
    assert lost == [("a", "1")]
    assert leases.holds("a", "2")


def test_a_late_finish_of_an_earlier_attempt_keeps_the_lease_of_the_later_one(leases: Leases) -> None:
    leases.claim(2, blocking=False)
    leases.claim(2, blocking=False)
    leases.forget("a", "1")
    assert leases.holds("a", "2")


def test_a_paused_process_claims_nothing(leases: Leases, queue: Queue) -> None:
    leases.pause()
    assert leases.claim(2, blocking=True).requests == []
    assert len(queue.claims) == 2
    leases.resume()
    assert leases.claim(2, blocking=True).requests
