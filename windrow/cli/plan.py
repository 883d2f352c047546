"""``windrow plan``: how many devices a workload needs, or how much the devices hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli import lab_options as options
from windrow.cli.output import FAILED, errors_reported, fail, print_json

if TYPE_CHECKING:
    from windrow.lab.plan.planner import Plan
    from windrow.lab.plan.trials import Slo

#: Requests of a simulated run where --requests does not say; those that generate take hundreds of steps each.
REQUESTS, GENERATED_REQUESTS = 10_000, 1000


def plan(
    context: typer.Context,
    p99: Annotated[str | None, typer.Option(help="99 % of the requests take at most this, such as 300ms.")] = None,
    p95: Annotated[str | None, typer.Option(help="The same for 95 %.")] = None,
    p50: Annotated[str | None, typer.Option(help="The same for half of them.")] = None,
    ttft_p99: Annotated[
        str | None, typer.Option(help="With --generate: 99 % have their first token within this.")
    ] = None,
    itl_p99: Annotated[str | None, typer.Option(help="With --generate: 99 % of the tokens follow within this.")] = None,
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
    generate: Annotated[bool, typer.Option(help="Text generation: none, static, continuous or chunked.")] = False,
    median_output: Annotated[
        float, typer.Option(min=1, help="Median of what is generated, where no trace says.")
    ] = 100,
    max_output: Annotated[int, typer.Option(min=1, help="Most tokens that are generated.")] = 1000,
    cache_tokens: Annotated[int, typer.Option(min=16, help="Tokens that the cache of a device holds.")] = 200_000,
    cost: options.Cost = options.DEFAULT_COST,
    report: options.Report = None,
    as_json: options.Json = False,
) -> None:
    """Find the fewest devices and the best settings for a rate and an SLO; or with --devices, the highest rate.

    Ends with 1 where no number of devices meets the SLO, or not so many as there are, and says what the best reachable
    is.
    """
    from windrow.lab.plan.plans import Asked, search
    from windrow.lab.simulate.workload_options import Traffic

    with errors_reported(as_json), options.many_objects(report):
        _refuse_idle(context)
        slos = _read_slos({"p99": p99, "p95": p95, "p50": p50}, ttft_p99, itl_p99)
        count = (GENERATED_REQUESTS if generate else REQUESTS) if requests is None and trace is None else requests
        flows = options.read_flows(tenant)
        traffic = Traffic(
            pattern, rate, count, trace, median_tokens, sigma, max_tokens, flows, seed,
            (median_output, max_output) if generate else None,
        )  # fmt: skip
        names = options.strategies(strategy or ["all"], generate)
        asked = Asked(slos, names, devices, most_devices, max_batch_tokens, cache_tokens)
        found = search(traffic, asked, cost, _say)
        about = {"workload": traffic.describe(), "slo": _describe(found.slos)}
        print_json({**about, **_as_json(found)}) if as_json else _show(found, about)
        if report is not None and found.best is not None:
            from windrow.lab.plan.plans import panels, rows
            from windrow.lab.report.page import write_report

            _say(*write_report(report, "Plan", about, [rows(found)], panels(found, devices is not None)))
    if found.best is None:
        fail("slo_unreachable", _why_not(found), FAILED, as_json)


def _refuse_idle(context: typer.Context) -> None:
    """Refuse the options that would do nothing beside the others."""
    given, idle = context.params, partial(options.refuse, context)
    if given["devices"] is not None:
        idle({"rate", "most_devices"}, "with --devices, which looks for the highest rate that these hold")
    if given["trace"] is not None:
        idle({"pattern", "median_tokens", "max_tokens"}, "with --trace, which has arrivals and lengths of its own")
    if given["generate"]:
        idle({"max_batch_tokens"}, "with --generate, which looks for it")
    else:
        idle({"ttft_p99", "itl_p99", "median_output", "max_output", "cache_tokens"}, "without --generate")


def _read_slos(by_end: dict[str, str | None], ttft_p99: str | None, itl_p99: str | None) -> list[Slo]:
    from windrow.lab.plan.trials import Slo

    named = {name: text for name, text in by_end.items() if text is not None}
    slos = [Slo(options.seconds(text, f"--{name}"), int(name[1:]) / 100) for name, text in named.items()]
    for name, text, of in (("--ttft-p99", ttft_p99, "first_token"), ("--itl-p99", itl_p99, "gap")):
        slos += [] if text is None else [Slo(options.seconds(text, name), 0.99, of)]
    if not slos or len(named) > 1:
        raise ValueError(
            "takes one of --p99, --p95 and --p50, such as --p99 300ms; with --generate also --ttft-p99 and --itl-p99"
        )
    return slos


def _describe(slos: Sequence[Slo]) -> str:
    return ", ".join(f"{slo.name} within {slo.seconds * 1e3:g} ms" for slo in slos)


def _why_not(found: Plan[Any]) -> str:
    if found.nearest is None:
        figures = ", ".join(
            f"{figure_s * 1e3:.1f} ms ({slo.name})"
            for slo, figure_s in zip(found.slos, found.reachable_s, strict=True)
            if figure_s > slo.seconds
        )
        return (
            f"no number of devices meets {_describe(found.slos)}: alone on an idle device the requests take "
            f"{figures} at that percentile, which is the best reachable"
        )
    from windrow.lab.report.tables import number

    near = found.nearest
    reached = zip(found.slos, near.figures_s, strict=True)
    figures = ", ".join(f"{slo.name} {number(figure_s * 1e3)} ms" for slo, figure_s in reached)
    growing = "" if near.worst > 1 else ", but their queue grows and grows"
    return (
        f"up to {near.devices} devices do not meet {_describe(found.slos)} at {number(near.rate_per_s)} requests/s; "
        f"the best that these reach is {figures}{growing}, with {_settings(near.policy)}"
    )


def _settings(policy: Any) -> str:
    from windrow.lab.plan.plans import settings_of

    return ", ".join(f"{name} = {value}" for name, value in settings_of(policy).items())


def _as_json(found: Plan[Any]) -> dict[str, Any]:
    from windrow.lab.plan.plans import as_json

    return as_json(found)


def _show(found: Plan[Any], about: dict[str, str]) -> None:
    from rich.console import Console

    from windrow.lab.plan.plans import rows
    from windrow.lab.report.tables import show

    console = Console()
    for name, value in about.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    if found.best is not None:
        show(console, f"Plan, of {len(found.tried)} simulated", rows(found))


def _say(*parts: str | Path) -> None:
    print(*parts, file=sys.stderr, flush=True)
