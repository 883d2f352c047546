"""``windrow plan``: how many devices a workload needs, or which rate the devices sustain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli import lab_options as options
from windrow.cli.output import FAILED, Json, errors_reported, fail, log, print_json

if TYPE_CHECKING:
    from windrow.lab.plan.planner import Plan
    from windrow.lab.plan.trials import Slo

#: Default numbers of requests of a simulated run; a request that generates text takes hundreds of steps.
REQUESTS, GENERATED_REQUESTS = 10_000, 1000


def plan(
    context: typer.Context,
    p99: Annotated[str | None, typer.Option(help="Latency objective for 99 % of the requests, such as 300ms.")] = None,
    p95: Annotated[str | None, typer.Option(help="Latency objective for 95 %.")] = None,
    p50: Annotated[str | None, typer.Option(help="Latency objective for 50 %.")] = None,
    ttft_p99: Annotated[str | None, typer.Option(help="With --generate: time to first token, 99th percentile.")] = None,
    itl_p99: Annotated[str | None, typer.Option(help="With --generate: inter-token latency, 99th percentile.")] = None,
    rate: options.Rate = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Find the highest rate that this many devices sustain.")
    ] = None,
    most_devices: Annotated[int, typer.Option(min=1, help="Maximum number of devices.")] = 256,
    pattern: options.Pattern = "poisson",
    requests: options.Requests = None,
    trace: options.Trace = None,
    median_tokens: options.MedianTokens = 45.0,
    sigma: options.Sigma = 0.9,
    max_tokens: options.MaxTokens = 256,
    tenant: options.Tenants = None,
    seed: options.Seed = 0,
    strategy: Annotated[list[str] | None, typer.Option(help="Strategy to consider, repeatable; default: all.")] = None,
    max_batch_tokens: options.BatchTokens = 16384,
    generate: options.Generate = False,
    median_output: options.MedianOutput = 100,
    max_output: options.MaxOutput = 1000,
    cache_tokens: options.CacheTokens = 200_000,
    cost: options.Cost = options.DEFAULT_COST,
    report: options.Report = None,
    as_json: Json = False,
) -> None:
    """Find the fewest devices and the best settings for a rate and an SLO; with --devices, find the highest rate.

    Exits with 1 and the best reachable latency if no allowed number of devices meets the SLO.
    """
    with errors_reported(as_json, "lab"), options.many_objects(report):
        from windrow.lab.plan.plans import Asked, panels, rows, search
        from windrow.lab.plan.plans import as_json as plan_json
        from windrow.lab.report.tables import show_report

        _refuse_idle(context)
        slos = _read_slos({"p99": p99, "p95": p95, "p50": p50}, ttft_p99, itl_p99)
        traffic = options.read_traffic(context.params, GENERATED_REQUESTS if generate else REQUESTS)
        names = options.strategies(strategy or ["all"], generate)
        asked = Asked(slos, names, devices, most_devices, max_batch_tokens, cache_tokens)
        found = search(traffic, asked, cost, log)
        about = {"workload": traffic.describe(), "slo": _describe(found.slos)}
        if as_json:
            print_json({**about, **plan_json(found)})
        else:
            show_report(about, [(f"Plan, chosen from {len(found.tried)} simulated", rows(found))])
        if report is not None and found.best is not None:
            from windrow.lab.report.page import write_report

            log(*write_report(report, "Plan", about, [rows(found)], panels(found, devices is not None)))
    if found.best is None:
        fail("slo_unreachable", _why_not(found), FAILED, as_json)


def _refuse_idle(context: typer.Context) -> None:
    """Refuse options that have no effect together with the others."""
    given, idle = context.params, partial(options.refuse, context)
    if given["devices"] is not None:
        idle({"rate", "most_devices"}, "with --devices, which finds the highest rate")
    if given["trace"] is not None:
        idle({"pattern", "median_tokens", "max_tokens"}, "with --trace, which contains arrivals and lengths")
    if given["generate"]:
        idle({"max_batch_tokens"}, "with --generate, which finds it")
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
            f"no number of devices meets {_describe(found.slos)}: on an idle device the requests take {figures} at "
            "that percentile, which is the best reachable"
        )
    from windrow.lab.report.tables import number

    near = found.nearest
    reached = zip(found.slos, near.figures_s, strict=True)
    figures = ", ".join(f"{slo.name} {number(figure_s * 1e3)} ms" for slo, figure_s in reached)
    growing = "" if near.worst > 1 else ", but their queue grows without limit"
    return (
        f"up to {near.devices} devices do not meet {_describe(found.slos)} at {number(near.rate_per_s)} requests/s; "
        f"the best result is {figures}{growing}, with {_settings(near.policy)}"
    )


def _settings(policy: Any) -> str:
    from windrow.lab.plan.plans import settings_of

    return ", ".join(f"{name} = {value}" for name, value in settings_of(policy).items())
