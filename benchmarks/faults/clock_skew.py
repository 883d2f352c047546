"""Clock skew between the API and the worker: requests must expire neither early nor late."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from benchmarks.faults.checker import MODEL, Checker, texts_of
from benchmarks.faults.clock import SHIFT_VARIABLE
from benchmarks.faults.deployment import ApiProgram, Deployment
from benchmarks.faults.report import Report
from windrow.bench.programs import Check

#: A deadline that is met, and one that passes while no worker runs.
LONG_MS, SHORT_MS = 60_000, 1500
LIMIT_S = 60.0


def shift_clocks(folder: Path, check: Check, api_shift_s: float, worker_shift_s: float, requests: int) -> Report:
    """Send requests without a deadline, with one that is met, and with one that passes before a worker starts."""
    report = Report(f"the API's clock {api_shift_s:+g} s, the worker's {worker_shift_s:+g} s")
    worker_environ = {SHIFT_VARIABLE: str(worker_shift_s)}
    with Deployment(folder, check) as deployment, Checker(deployment.url) as checker:
        worker = deployment.start_worker(environ=worker_environ)
        api = ApiProgram(deployment, environ={SHIFT_VARIABLE: str(api_shift_s)})
        with httpx.Client(base_url=api.url, timeout=30, trust_env=False) as client:
            _send(client, checker, texts_of(requests))
            met = _send(client, checker, texts_of(requests), LONG_MS)
            deployment.wait_until("the requests with a met deadline have finished", checker.all_finished(), LIMIT_S)
            worker.kill_group()
            late = _send(client, checker, texts_of(requests), SHORT_MS)
            checker.expect(late, "expired")
            kept = _send(client, checker, texts_of(requests), LONG_MS)
            began_s = time.monotonic()
            deployment.pause(SHORT_MS / 1e3 + 0.2)
            deployment.start_worker(environ=worker_environ)
            checker.settle(report, deployment.wait_until, LIMIT_S)
            report.figure("the late ones had expired after", time.monotonic() - began_s, "s")
            readable = sum(client.get(f"/v1/predictions/{id}").status_code == 200 for id in checker.expected)
            report.figure("readable at the end", readable, "requests", str(len(checker.expected)), 0)
            report.must(
                readable == len(checker.expected), f"only {readable} of {len(checker.expected)} results can be read"
            )
        expired = [
            found for found in checker.found(late).values() if found is not None and found.completed_s is not None
        ]
        early = [found.id for found in expired if (found.completed_s or 0) - found.created_s < SHORT_MS / 1e3]
        report.must(not early, f"expired before their deadline: {early}")
        report.figure("met their deadline", len(met) + len(kept), "requests", digits=0)
    return report


def _send(client: httpx.Client, checker: Checker, texts: list[str], deadline_ms: int | None = None) -> list[str]:
    """Send ``texts`` in one HTTP request, record them, and return their ids."""
    body = {"model": MODEL, "inputs": texts} | ({"deadline_ms": deadline_ms} if deadline_ms else {})
    response = client.post("/v1/predictions:batch", json=body)
    response.raise_for_status()
    ids = [prediction["id"] for prediction in response.json()["predictions"]]
    for id, text in zip(ids, texts, strict=True):
        checker.accept(id, text)
    return ids
