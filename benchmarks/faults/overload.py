"""Overload: the queue must keep its depth limit and answer every accepted request in time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.faults.checker import MODEL, Checker, texts_of
from benchmarks.faults.deployment import ApiProgram, Deployment
from benchmarks.faults.engine import PASS_VARIABLE
from benchmarks.faults.report import Report
from benchmarks.stats import percentile
from windrow.bench.programs import Check

#: Batch size and seconds per forward pass, which give the worker's capacity.
BATCH_SIZE, PASS_S = 8, 0.1
#: Offered load, as a multiple of the capacity.
OFFERED = 3
MAX_DEPTH = 160
#: Allowed latency beyond the queueing time: batches claimed ahead, and a busy machine.
SLACK_S = 2.0
LIMIT_S = 60.0


@dataclass(slots=True)
class Answers:
    """The API's responses."""

    accepted: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    without_retry_after: int = 0
    retry_after_s: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    deepest: int = 0


def overload(
    folder: Path, check: Check, seconds: float, *, pass_s: float = PASS_S, max_depth: int = MAX_DEPTH
) -> Report:
    """Offer `OFFERED` times the capacity over HTTP, in an open loop.

    A larger ``pass_s`` lowers the request rate that overloads the worker. ``max_depth`` requests may wait.
    """
    capacity_per_s = BATCH_SIZE / pass_s
    report = Report(f"{OFFERED} times the capacity for {seconds:g} s")
    with (
        Deployment(
            folder, check, max_batch_size=BATCH_SIZE, max_depth=max_depth, environ={PASS_VARIABLE: str(pass_s)}
        ) as deployment,
        Checker(deployment.url) as checker,
    ):
        deployment.start_worker()
        api = ApiProgram(deployment)
        answers = asyncio.run(_offer(api.url, checker, check, OFFERED * capacity_per_s, seconds))
        for id, text in answers.accepted.items():
            checker.accept(id, text)
        checker.settle(report, deployment.wait_until, LIMIT_S)
        known = [found for found in checker.found().values() if found is not None]
    latencies_s = [found.completed_s - found.created_s for found in known if found.completed_s is not None]
    bound_s = max_depth / capacity_per_s + SLACK_S
    p99_s = percentile(latencies_s, 0.99)
    report.figure("offered", len(answers.accepted) + answers.refused, "requests", digits=0)
    report.figure("refused with 429", answers.refused, "requests", digits=0)
    report.figure("deepest seen", answers.deepest, "requests", f"<= {max_depth}", 0)
    report.figure("latency of what was accepted, p50", percentile(latencies_s, 0.5), "s")
    report.figure("latency of what was accepted, p99", p99_s, "s", f"<= {bound_s:g}")
    report.must(answers.deepest <= max_depth, f"{answers.deepest} requests waited, more than max_depth = {max_depth}")
    report.must(p99_s <= bound_s, f"the p99 latency of accepted requests is {p99_s:.2f} s, above {bound_s:g} s")
    report.must(answers.refused > 0, "no request was refused, so the load was no overload")
    report.must(
        not answers.without_retry_after, f"{answers.without_retry_after} responses with status 429 have no Retry-After"
    )
    report.must(not answers.others, f"{len(answers.others)} unexpected responses, for example {answers.others[:3]}")
    if answers.retry_after_s:
        report.figure("Retry-After, mean", sum(answers.retry_after_s) / len(answers.retry_after_s), "s")
    return report


async def _offer(url: str, checker: Checker, check: Check, per_s: float, seconds: float) -> Answers:
    answers = Answers()
    texts = texts_of(int(per_s * seconds))
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30, trust_env=False) as client:
        began_s = time.monotonic()
        tasks = []
        for number, text in enumerate(texts):
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.monotonic()))
            tasks.append(asyncio.create_task(_ask(client, text, answers)))
            if number % 16 == 0:
                check()
                answers.deepest = max(answers.deepest, checker.queue.depth().waiting)
        await asyncio.gather(*tasks)
    return answers


async def _ask(client: httpx.AsyncClient, text: str, answers: Answers) -> None:
    response = await client.post("/v1/predictions", json={"model": MODEL, "input": text})
    if response.status_code == 202:
        body: dict[str, Any] = response.json()
        answers.accepted[body["id"]] = text
    elif response.status_code == 429:
        answers.refused += 1
        seconds = response.headers.get("Retry-After", "")
        if seconds.isdigit() and int(seconds) > 0:
            answers.retry_after_s.append(int(seconds))
        else:
            answers.without_retry_after += 1
    else:
        answers.others.append(f"{response.status_code} {response.text[:200]}")
