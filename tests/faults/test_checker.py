"""The checker must detect lost requests, duplicate results and wrong answers."""

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
    checker.queue.finish([request.set_outcome(Done(known_answer(request.call()["input"]))) for request in claimed])


def settled(checker: Checker) -> tuple[Report, dict[str, float]]:
    report = Report("a test")
    checker.settle(report, wait_once, 1.0)
    return report, {figure["name"]: figure["value"] for figure in report.figures}


def test_right_answers_break_no_promise(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one", "two"])
        answer(checker, checker.queue.claim(9, lease_s=60).requests)
        report, figures = settled(checker)
    assert report.broken == []
    assert figures["accepted"] == 2


def test_an_unanswered_request_counts_as_lost(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one", "two"])
        answer(checker, checker.queue.claim(1, lease_s=60).requests)
        report, figures = settled(checker)
    assert figures["lost"] == 1
    assert any(line.startswith("lost: 1") for line in report.broken)


def test_a_request_deleted_from_redis_counts_as_lost(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one"])
        checker.redis.flushall()
        _, figures = settled(checker)
    assert figures["lost"] == 1


def test_the_answer_to_another_text_counts_as_wrong(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.submit(["one", "two"])
        one, two = checker.queue.claim(9, lease_s=60).requests
        checker.queue.finish([item.set_outcome(Done(known_answer("one"))) for item in (one, two)])
        report, figures = settled(checker)
    assert figures["with a wrong answer"] == 1
    assert report.broken


def test_a_result_announced_twice_counts_as_duplicate(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        (id,) = checker.submit(["one"])
        answer(checker, checker.queue.claim(9, lease_s=60).requests)
        checker.redis.publish(f"celery-task-meta-{id}", b"{}")
        report, figures = settled(checker)
    assert figures["with two results"] == 1
    assert report.broken


def test_an_unexpected_final_state_counts_as_wrong(redis_server: str) -> None:
    with Checker(redis_server) as checker:
        checker.expect(checker.submit(["one"]), "failed", "model_failed")
        answer(checker, checker.queue.claim(9, lease_s=60).requests)
        _, figures = settled(checker)
    assert figures["with a wrong answer"] == 1
