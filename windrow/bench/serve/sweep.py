"""``windrow bench sweep``: one server at rates from low to above its capacity; finds the highest it keeps up with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from windrow.bench.dataset import Item
from windrow.bench.serve.load import Answer, Ask, at_times, by_users
from windrow.bench.serve.report import KEPT_UP, share_kept_up, stages_panel, summarise
from windrow.lab.report.charts import Panel, distribution_panel
from windrow.lab.report.tables import TableRows, number
from windrow.lab.simulate.workload import PATTERNS, draw_arrivals

#: Rates to try, as shares of the throughput that closed-loop users reach.
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25)
#: Fewest requests per rate; a 99th percentile needs about this many.
FEWEST = 50
#: Share of the requests that must meet the limits.
GOOD = 0.99
Say = Callable[[str], None]


async def find_rates(ask: Ask, items: Sequence[Item], users: int, seconds: float) -> list[float]:
    """Return rates from low to above the capacity, which closed-loop ``users`` measure; raises `ValueError`."""
    answers = await by_users(ask, _for_seconds(items, seconds), users)
    capacity_per_s = summarise(answers)["requests_per_s"]
    if not capacity_per_s:
        raise ValueError(f"no request succeeded; the first failed with {answers[0].error}")
    return [float(f"{share * capacity_per_s:.3g}") for share in SHARES]


def _for_seconds(items: Sequence[Item], seconds: float) -> Iterator[Item]:
    end_s = time.perf_counter() + seconds
    for item in cycle(items):
        if time.perf_counter() > end_s:
            return
        yield item


async def sweep(
    ask: Ask, items: Sequence[Item], rates_per_s: Sequence[float], seconds: float, pattern: str, seed: int, say: Say
) -> dict[float, list[Answer]]:
    """Return the answers at each rate. The next rate starts when all requests of the last one have finished."""
    numbers = np.random.default_rng(seed)
    answers = {}
    for rate_per_s in rates_per_s:
        count = max(FEWEST, round(rate_per_s * seconds))
        due_s = draw_arrivals(PATTERNS[pattern], rate_per_s, count, numbers)
        answers[rate_per_s] = await at_times(ask, islice(cycle(items), count), due_s)
        say(f"{rate_per_s:g} requests/s: {count} requests")
    return answers


def summarise_sweep(
    answers: Mapping[float, Sequence[Answer]], slo_s: float | None, slo_itl_s: float | None = None
) -> dict[str, Any]:
    """Return one report per rate in increasing order, and the knee.

    The knee is the highest rate such that the server keeps up with it and with all lower rates, and, if limits are set,
    that `GOOD` of all requests meet them; see `windrow.bench.serve.report.summarise`. It is None if the server does not
    keep up with the lowest rate.
    """
    steps = []
    for rate_per_s, those in sorted(answers.items()):
        report = summarise(those, slo_s, slo_itl_s)
        kept_up = share_kept_up(those)
        is_fast = report.get("within_slo", 1.0) >= GOOD
        step = {"rate_per_s": rate_per_s, "kept_up": kept_up, "is_sustained": kept_up >= KEPT_UP and is_fast}
        steps.append(step | report)
    knee = None
    for step in steps:
        if not step["is_sustained"]:
            break
        knee = step["rate_per_s"]
    return {"knee_per_s": knee, "steps": steps}


def sweep_rows(report: Mapping[str, Any]) -> TableRows:
    """Return one table row per rate; times are means in milliseconds, except the percentiles of latency."""
    rows = [["rate", "req/s", "p50", "p99", "queue", "wait", "service", "batch", "failed", "sustained"]]
    for step in report["steps"]:
        latency_ms = step["latency_ms"] or {}
        stages = [step[stage] or {} for stage in ("queue_ms", "batch_wait_ms", "compute_ms")]
        rows.append(
            [
                f"{step['rate_per_s']:g}", number(step["requests_per_s"]),
                *(number(latency_ms.get(share)) for share in ("p50", "p99")),
                *(number(stage.get("mean")) for stage in stages), number(step["mean_batch_size"]),
                str(step["failed"]), "yes" if step["is_sustained"] else "no",
            ]
        )  # fmt: skip
    return rows


def sweep_panels(report: Mapping[str, Any], answers: Mapping[float, Sequence[Answer]]) -> list[Panel]:
    """Return plots of throughput and latency over the offered rate, and of latency parts per rate."""
    steps = [step for step in report["steps"] if step["latency_ms"]]
    rates = [step["rate_per_s"] for step in steps]
    got = (rates, [step["requests_per_s"] for step in steps])
    percentiles = {share: (rates, [step["latency_ms"][share] for step in steps]) for share in ("p50", "p90", "p99")}
    knee = [step for step in steps if step["rate_per_s"] == report["knee_per_s"]]
    at_knee = {"knee": ([step["rate_per_s"] for step in knee], [step["requests_per_s"] for step in knee])}
    latencies = {
        f"{rate:g}/s": [one.latency_s for one in those if one.error is None] for rate, those in sorted(answers.items())
    }
    return [
        Panel(
            "Throughput", "requests/s offered", "requests/s", {"answered": got}, at_knee, {"offered": (rates, rates)}
        ),
        Panel("Latency", "requests/s offered", "ms", percentiles, is_log_y=True),
        distribution_panel(latencies),
        stages_panel({f"{step['rate_per_s']:g}": step for step in steps}),
    ]
