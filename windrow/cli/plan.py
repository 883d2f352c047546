"""``windrow plan``: how many devices a workload needs, or how much the devices hold."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli import lab_options as options
from windrow.cli.output import FAILED, errors_reported, fail, print_json

if TYPE_CHECKING:
    from scheduler.lab.device import Policy
    from scheduler.lab.planner import Plan, Point, Slo

#: Requests of a simulated run where --requests does not say.
REQUESTS = 10_000


def plan(
    p99: Annotated[str | None, typer.Option(help="99 % of the requests take at most this, such as 300ms.")] = None,
    p95: Annotated[str | None, typer.Option(help="The same for 95 %.")] = None,
    p50: Annotated[str | None, typer.Option(help="The same for half of them.")] = None,
    rate: options.Rate = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Find the highest rate that so many hold, instead of how many it takes.")
    ] = None,
    most_devices: Annotated[int, typer.Option(min=1, help="How many could be had.")] = 256,
    pattern: options.Pattern = "poisson",
    requests: options.Requests = None,
    trace: options.Trace = None,
    median_tokens: options.MedianTokens = 45.0,
    sigma: options.Sigma = 0.9,
    max_tokens: options.MaxTokens = 256,
    tenant: options.Tenants = None,
    seed: options.Seed = 0,
    strategy: Annotated[list[str] | None, typer.Option(help="Strategies to choose from; all when left out.")] = None,
    max_batch_tokens: options.BatchTokens = 16384,
    cost: options.Cost = options.DEFAULT_COST,
    report: options.Report = None,
    as_json: options.Json = False,
) -> None:
    """Find the fewest devices and the best settings for a rate and an SLO; or with --devices, the highest rate.

    Ends with 1 where no number of devices meets the SLO, and says what the best reachable is.
    """
    from scheduler.lab.cost import read_cost
    from scheduler.lab.planner import plan_devices, plan_rate, policies
    from windrow.lab.workloads import Traffic

    with errors_reported(as_json), options.many_objects(report):
        slo = _read_slo({"p99": p99, "p95": p95, "p50": p50})
        count = REQUESTS if requests is None and trace is None else requests
        flows = options.read_flows(tenant)
        traffic = Traffic(pattern, rate, count, trace, median_tokens, sigma, max_tokens, flows, seed)
        workload, costs = traffic.workload(), read_cost(cost)
        choices = policies(options.strategies(strategy or ["all"]), max_batch_tokens, max_tokens)
        if devices is None:
            found = plan_devices(workload, choices, costs, slo, most_devices, _say)
        else:
            found = plan_rate(workload, choices, costs, slo, devices, _say)
        about = {"workload": traffic.describe(), "slo": _describe(slo)}
        print_json({**about, **_as_json(found)}) if as_json else _show(found, about)
        if report is not None and found.best is not None:
            from windrow.lab.page import write_report

            _say(*write_report(report, "Plan", about, [_rows(found)], _panels(found, devices is not None)))
    if found.best is None:
        fail("slo_unreachable", _why_not(found, devices or most_devices), FAILED, as_json)


def _read_slo(given: dict[str, str | None]) -> Slo:
    from scheduler.lab.planner import Slo

    named = {name: text for name, text in given.items() if text is not None}
    if len(named) != 1:
        raise ValueError("takes one of --p99, --p95 and --p50, such as --p99 300ms")
    ((name, text),) = named.items()
    return Slo(options.seconds(text, f"--{name}"), int(name[1:]) / 100)


def _describe(slo: Slo) -> str:
    return f"p{slo.share * 100:.0f} within {slo.seconds * 1e3:g} ms"


def _why_not(found: Plan, devices: int) -> str:
    slo = found.slo
    if found.best_reachable_s > slo.seconds:
        return (
            f"no number of devices meets {_describe(slo)}: alone on an idle device the requests take "
            f"{found.best_reachable_s * 1e3:.1f} ms at that percentile, which is the best reachable"
        )
    best_s = min((point.latency_s for point in found.tried), default=math.inf)
    reached = f"; the best reached is {best_s * 1e3:.1f} ms" if best_s < math.inf else ""
    return f"up to {devices} devices do not meet {_describe(slo)} under this load{reached}"


def _as_json(found: Plan) -> dict[str, Any]:
    return {
        "best": None if found.best is None else _point(found.best),
        "front": [_point(point) for point in found.front],
        "best_reachable_ms": found.best_reachable_s * 1e3,
        "tried": len(found.tried),
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "devices": point.devices,
        "rate_per_s": point.rate_per_s,
        "latency_ms": point.latency_s * 1e3,
        "strategy": point.policy.strategy,
        "max_batch_size": point.policy.limits.max_batch_size,
        "max_batch_tokens": point.policy.limits.max_batch_tokens,
        "max_wait_ms": _wait_ms(point.policy),
    }


def _wait_ms(policy: Policy) -> float | str:
    """As ``max_wait_ms`` takes it."""
    return "auto" if policy.max_wait_s is None else policy.max_wait_s * 1e3


def _rows(found: Plan) -> list[list[str]]:
    heads = [
        "",
        "devices",
        "requests/s",
        f"p{found.slo.share * 100:.0f} ms",
        "strategy",
        "max_batch_size",
        "max_wait_ms",
    ]
    points = [found.best, *(point for point in found.front if point is not found.best)] if found.best else []
    return [heads] + [
        ["best" if point is found.best else "front", str(point.devices), _rate(point),
         f"{point.latency_s * 1e3:.1f}", point.policy.strategy, str(point.policy.limits.max_batch_size),
         str(_wait_ms(point.policy))]
        for point in points
    ]  # fmt: skip


def _rate(point: Point) -> str:
    """Requests that all come in one moment have none."""
    return "-" if math.isinf(point.rate_per_s) else f"{point.rate_per_s:.1f}"


def _show(found: Plan, about: dict[str, str]) -> None:
    from rich.console import Console

    from windrow.lab.tables import show

    console = Console()
    for name, value in about.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    if found.best is not None:
        show(console, f"Plan, of {len(found.tried)} simulated", _rows(found))


def _panels(found: Plan, is_by_rate: bool) -> list[Any]:
    from windrow.lab.charts import Panel

    label = f"p{found.slo.share * 100:.0f} ms"
    tried = [point for point in found.tried if point.latency_s < math.inf]

    def along(points: list[Point]) -> tuple[list[float], list[float]]:
        x = [point.rate_per_s if is_by_rate else float(point.devices) for point in points]
        return x, [point.latency_s * 1e3 for point in points]

    front = found.front
    if is_by_rate:
        front = sorted((one for one in tried if found.best and one.policy == found.best.policy),
                       key=lambda one: one.rate_per_s)  # fmt: skip
    name = "best settings" if is_by_rate else "Pareto front"
    x_label = "requests/s" if is_by_rate else "devices"
    return [Panel("What was tried", x_label, label, {name: along(front)}, {"simulated": along(tried)}, is_log_y=True)]


def _say(*parts: str | Path) -> None:
    print(*parts, file=sys.stderr, flush=True)
