"""Plans for both kinds of models: from options to tables and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from windrow.lab.costs.cost import decode_cost, read_cost
from windrow.lab.plan.planner import Plan, Point, find_devices, find_rate
from windrow.lab.plan.trials import PassTrials, Slo, StepTrials, Trials, generation_policies, policies
from windrow.lab.report.charts import Panel
from windrow.lab.report.tables import TableRows
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.generation import GENERATION, GenerationPolicy
from windrow.lab.simulate.workload_options import Traffic

Say = Callable[[str], None]


class Asked(NamedTuple):
    """The question that a plan answers."""

    slos: Sequence[Slo]
    strategies: Sequence[str]
    #: None to find the fewest devices.
    devices: int | None
    most_devices: int
    max_batch_tokens: int
    cache_tokens: int


def search(traffic: Traffic, asked: Asked, cost: Path, say: Say) -> Plan[Any]:
    """Search for the plan; raises `ValueError` for an impossible workload or costs."""
    workload, costs = traffic.workload(), read_cost(cost)
    trials: Trials[Any]
    choices: Sequence[Any]
    if traffic.output_tokens is not None:
        trials = StepTrials(decode_cost(costs, cost), costs.handover_s)
        choices = generation_policies(asked.strategies, asked.cache_tokens)
    else:
        trials = PassTrials(costs)
        longest_tokens = traffic.max_tokens if traffic.trace is None else max(workload.tokens)
        choices = policies(asked.strategies, asked.max_batch_tokens, longest_tokens)
    if asked.devices is None:
        return find_devices(workload, choices, trials, asked.slos, asked.most_devices, say)
    return find_rate(workload, choices, trials, asked.slos, asked.devices, say)


def settings_of(policy: Policy | GenerationPolicy) -> dict[str, Any]:
    """Return the settings as keys of ``windrow.toml``."""
    if isinstance(policy, Policy):
        limits, wait_s = policy.limits, policy.max_wait_s
        return {
            "strategy": policy.strategy, "max_batch_size": limits.max_batch_size,
            "max_batch_tokens": limits.max_batch_tokens, "max_wait_ms": "auto" if wait_s is None else wait_s * 1e3,
        }  # fmt: skip
    strategy, is_chunked = GENERATION[policy.name]
    # Without chunked prefill, a prompt may fill the whole step.
    chunk = policy.prefill_chunk_tokens if is_chunked else policy.max_batch_tokens
    return {
        "strategy": strategy, "max_batch_size": policy.max_batch_size, "max_batch_tokens": policy.max_batch_tokens,
        "prefill_chunk_tokens": chunk,
    }  # fmt: skip


def as_json(found: Plan[Any]) -> dict[str, Any]:
    """Return the plan and its Pareto front as JSON."""
    return {
        "best": None if found.best is None else _point(found.best, found.slos),
        "front": [_point(point, found.slos) for point in found.front],
        "nearest": None if found.nearest is None else _point(found.nearest, found.slos),
        "best_reachable_ms": {
            slo.name: figure_s * 1e3 for slo, figure_s in zip(found.slos, found.reachable_s, strict=True)
        },
        "tried": len(found.tried),
    }


def _point(point: Point[Any], slos: Sequence[Slo]) -> dict[str, Any]:
    figures = {slo.name: figure_s * 1e3 for slo, figure_s in zip(slos, point.figures_s, strict=True)}
    return {
        "devices": point.devices, "rate_per_s": point.rate_per_s, "latency_ms": point.latency_s * 1e3,
        "figures_ms": figures, **settings_of(point.policy),
    }  # fmt: skip


def rows(found: Plan[Any]) -> TableRows:
    """Return the best plan and the rest of the Pareto front as table rows."""
    points = [found.best, *(point for point in found.front if point != found.best)] if found.best else []
    if not points:
        return []
    heads = ["", "devices", "requests/s", *(f"{slo.name} ms" for slo in found.slos), *settings_of(points[0].policy)]
    return [heads] + [
        ["best" if point == found.best else "front", str(point.devices), _rate(point),
         *(f"{figure_s * 1e3:.1f}" for figure_s in point.figures_s), *map(str, settings_of(point.policy).values())]
        for point in points
    ]  # fmt: skip


def _rate(point: Point[Any]) -> str:
    """Return the arrival rate as text; requests that all arrive at once have none."""
    return "-" if math.isinf(point.rate_per_s) else f"{point.rate_per_s:.1f}"


def panels(found: Plan[Any], is_by_rate: bool) -> list[Panel]:
    """Return one plot per SLO: the simulated points with the front, or the best settings at other rates."""
    tried = [point for point in found.tried if point.worst < math.inf]
    front = found.front
    if is_by_rate:
        front = sorted((one for one in tried if found.best and one.policy == found.best.policy),
                       key=lambda one: one.rate_per_s)  # fmt: skip
    name, label = ("best settings", "requests/s") if is_by_rate else ("Pareto front", "devices")

    def along(points: Sequence[Point[Any]], slo: int) -> tuple[list[float], list[float]]:
        x = [point.rate_per_s if is_by_rate else float(point.devices) for point in points]
        return x, [point.figures_s[slo] * 1e3 for point in points]

    def panel(number: int, slo: Slo) -> Panel:
        lines, dots = {name: along(front, number)}, {"simulated": along(tried, number)}
        return Panel("Simulated settings", label, f"{slo.name} ms", lines, dots, is_log_y=True)

    return [panel(number, slo) for number, slo in enumerate(found.slos)]
