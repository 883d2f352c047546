"""The checker itself: it must see what is lost, double and wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.faults.checker import Checker
from benchmarks.faults.engine import known_answer
from benchmarks.faults.report import Report
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import Request

pytestmark = pytest.mark.faults


def wait_once(what: str, is_true: Callable[[], object], limit_s: float) -> None:
    if not is_true():
        raise TimeoutError(what)


def answer(checker: Checker, claimed: list[Request]) -> None:
    checker.queue.finish([one.set_outcome(Done(known_answer(one.call()["input"]))) for one in claimed])


def settled(checker: Checker) -> tuple[Report, dict[str, float]]:
    report = Report("a test")
    checker.settle(report, wait_once, 1.0)
    return report, {one["name"]: one["value"] for one in report.figures}


def test_right_answers_are_no_finding(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one", "two"])
        answer(checker, checker.queue.claim(9, lease_s=60).requests)
        report, figures = settled(checker)
    assert report.broken == []
    assert figures["accepted"] == 2


def test_a_request_that_nobody_answered_is_lost(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one", "two"])
        answer(checker, checker.queue.claim(1, lease_s=60).requests)
        report, figures = settled(checker)
    assert figures["lost"] == 1
    assert any(line.startswith("lost: 1") for line in report.broken)


def test_a_request_that_redis_has_forgotten_is_lost(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one"])
        checker.redis.flushall()
        _, figures = settled(checker)
    assert figures["lost"] == 1


def test_the_answer_to_another_text_is_wrong(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one", "two"])
        one, two = checker.queue.claim(9, lease_s=60).requests
        checker.queue.finish([item.set_outcome(Done(known_answer("one"))) for item in (one, two)])
        report, figures = settled(checker)
    assert figures["with a wrong answer"] == 1
    assert report.broken


def test_a_result_that_is_announced_again_is_double(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        (id,) = checker.submit(["one"])
        answer(checker, checker.queue.claim(9, lease_s=60).requests)
        checker.redis.publish(f"celery-task-meta-{id}", b"{}")
        report, figures = settled(checker)
    assert figures["with two results"] == 1
    assert report.broken


def test_an_end_that_was_expected_to_be_another_is_wrong(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.expect(checker.submit(["one"]), "failed", "model_failed")
        answer(checker, checker.queue.claim(9, lease_s=60).requests)
        _, figures = settled(checker)
    assert figures["with a wrong answer"] == 1
