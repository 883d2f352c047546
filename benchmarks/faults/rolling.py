"""Rolling restarts of API processes and workers under load: clients must see no error."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.faults.checker import MODEL, Checker, texts_of
from benchmarks.faults.deployment import ApiProgram, Deployment
from benchmarks.faults.engine import PASS_VARIABLE, known_answer
from benchmarks.faults.report import Report
from windrow.bench.programs import Check
from windrow.client.sync_client import Client
from windrow.errors import ClientError

LIMIT_S = 60.0
SETTLE_S = 1.5
PASS_S = "0.05"


class Load:
    """Three kinds of closed-loop clients that send requests during a ``with`` block."""

    def __init__(self, url: str, checker: Checker, clients: int) -> None:
        self._url = url
        self._checker = checker
        self._stops = threading.Event()
        self.answered: Counter[str] = Counter()
        self.errors: dict[str, list[str]] = {"client": [], "wait": [], "poll": []}
        kinds: tuple[Callable[[], None], ...] = (self._use_client, self._wait, self._poll)
        self._threads = [threading.Thread(target=kind, daemon=True) for kind in kinds for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        for thread in self._threads:
            thread.join()

    def _use_client(self) -> None:
        """Use `windrow.Client`, which retries by itself."""
        with Client(self._url) as client:
            while not self._stops.is_set():
                (text,) = texts_of(1)
                try:
                    prediction = client.predict(MODEL, text, wait_s=30)
                    self._checker.accept(prediction.id, text)
                    self._note("client", prediction.output == known_answer(text), f"{prediction.status}")
                except ClientError as error:
                    self._note("client", False, f"{type(error).__name__}: {error}")

    def _wait(self) -> None:
        """Submit with `Client`, then send ``GET ...?wait=`` as plain HTTP without retries."""
        self._follow("wait", {"wait": "5"}, 0.0)

    def _poll(self) -> None:
        """Submit with `Client`, then poll over plain HTTP without retries."""
        self._follow("poll", {}, 0.05)

    def _follow(self, kind: str, params: dict[str, str], pause_s: float) -> None:
        with Client(self._url) as client, httpx.Client(base_url=self._url, timeout=30, trust_env=False) as plain:
            while not self._stops.is_set():
                (text,) = texts_of(1)
                try:
                    id = client.submit(MODEL, text).id
                except ClientError as error:
                    self._note("client", False, f"submit: {type(error).__name__}: {error}")
                    continue
                self._checker.accept(id, text)
                end_s = time.monotonic() + LIMIT_S
                while time.monotonic() < end_s:
                    try:
                        response = plain.get(f"/v1/predictions/{id}", params=params)
                    except httpx.HTTPError as error:
                        self._note(kind, False, f"{type(error).__name__}: {error}")
                        continue
                    self._note(kind, response.status_code == 200, f"{response.status_code} {response.text[:200]}")
                    if response.status_code == 200 and response.json()["status"] not in ("queued", "processing"):
                        break
                    time.sleep(pause_s)

    def _note(self, kind: str, is_good: bool, what: str) -> None:
        if is_good:
            self.answered[kind] += 1
        else:
            self.errors[kind].append(what)


def restart_all(folder: Path, check: Check, rounds: int, clients: int) -> Report:
    """Reload gunicorn, then restart each of two workers, ``rounds`` times under load."""
    report = Report("rolling restarts under load")
    with Deployment(folder, check, environ={PASS_VARIABLE: PASS_S}) as deployment, Checker(deployment.url) as checker:
        workers = [deployment.start_worker(), deployment.start_worker()]
        api = ApiProgram(deployment, processes=2)
        with Load(api.url, checker, clients) as load:
            for _ in range(rounds):
                deployment.pause(SETTLE_S)
                api.reload()
                deployment.pause(SETTLE_S)
                for worker in workers:
                    worker.terminate()
                    status = worker.child.status
                    report.must(status == 0, f"a worker ended with status {status} instead of 0: {worker.log[-500:]}")
                    worker.start()
                    worker.wait_ready()
            deployment.pause(SETTLE_S)
        for kind, errors in load.errors.items():
            report.figure(f"{kind}: answers", load.answered[kind], digits=0)
            report.figure(f"{kind}: errors", len(errors), "", "0", 0)
            report.must(not errors, f"{kind}: {len(errors)} errors, for example {errors[:2]}")
        checker.settle(report, deployment.wait_until, LIMIT_S)
    return report
