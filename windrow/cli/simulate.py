"""``windrow simulate``: policies on a virtual clock."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli import lab_options as options
from windrow.cli.output import errors_reported, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from windrow.lab.measure.cost import CostModel
    from windrow.lab.simulate.simulation import Outcome
    from windrow.lab.simulate.workload_options import Traffic


def simulate(
    context: typer.Context,
    pattern: options.Pattern = "poisson",
    rate: options.Rate = None,
    requests: options.Requests = None,
    trace: options.Trace = None,
    median_tokens: options.MedianTokens = 45.0,
    sigma: options.Sigma = 0.9,
    max_tokens: options.MaxTokens = 256,
    tenant: options.Tenants = None,
    seed: options.Seed = 0,
    strategy: Annotated[list[str] | None, typer.Option(help="Once for each; none, static, ... or all.")] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Requests of a row.")] = 64,
    max_batch_tokens: options.BatchTokens = 16384,
    max_wait_ms: options.MaxWait = "5",
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 1,
    fail: Annotated[
        list[str] | None, typer.Option(help="WHEN:DEVICE:HOW_LONG; a worker dies, such as 10s:0:5s. Repeatable.")
    ] = None,
    lease: Annotated[str, typer.Option(help="From a worker's death until its requests are back.")] = "15s",
    max_attempts: Annotated[int, typer.Option(min=1, help="Before a request is given up.")] = 3,
    slo: Annotated[
        str | None,
        typer.Option(help="Latency that counts as good, such as 300ms; with --generate, to the first token."),
    ] = None,
    generate: Annotated[bool, typer.Option(help="Text generation: none, static, continuous or chunked.")] = False,
    median_output: Annotated[
        float, typer.Option(min=1, help="Median of what is generated, where no trace says.")
    ] = 100,
    max_output: Annotated[int, typer.Option(min=1, help="Most tokens that are generated.")] = 1000,
    cache_tokens: Annotated[
        int, typer.Option(min=16, max=100_000_000, help="Tokens that the cache of a device holds.")
    ] = 200_000,
    prefill_chunk: Annotated[int, typer.Option(min=1, help="Prompt tokens of a step, for chunked.")] = 512,
    slo_itl: Annotated[str | None, typer.Option(help="Mean time between tokens that counts as good.")] = None,
    cost: options.Cost = options.DEFAULT_COST,
    against: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Simulate this recorded run instead, and show by how much it is off."
        ),
    ] = None,
    report: options.Report = None,
    as_json: options.Json = False,
) -> None:
    """Run a workload through the scheduler's own decisions on a virtual clock, and say what would have been.

    What passes take comes from a cost file of `windrow tune`; without one, from the default model on two CPU cores.
    """
    from windrow.lab.measure.cost import decode_cost, read_cost
    from windrow.lab.measure.figures import summarise
    from windrow.lab.simulate.generation import GenerationPolicy, simulate_generation
    from windrow.lab.simulate.simulation import Fleet
    from windrow.lab.simulate.simulation import simulate as run
    from windrow.lab.simulate.workload_options import Traffic

    with errors_reported(as_json), options.many_objects(report):
        _refuse_idle(context)
        if against is not None:
            _lay_over(against, cost, report, as_json)
            return
        slo_s = None if slo is None else options.seconds(slo, "--slo")
        wait_s = options.read_wait_s(max_wait_ms)
        slo_itl_s = None if slo_itl is None else options.seconds(slo_itl, "--slo-itl")
        traffic = Traffic(
            pattern, rate, requests, trace, median_tokens, sigma, max_tokens, options.read_flows(tenant), seed,
            (median_output, max_output) if generate else None,
        )  # fmt: skip
        fleet = Fleet(devices, options.read_failures(fail), options.seconds(lease, "--lease"), max_attempts)
        _look_at_trace(context, traffic)
        costs = read_cost(cost)
        workload = traffic.workload()
        longest_tokens = max_tokens if trace is None else max(workload.tokens)
        runners: dict[str, Callable[[], Outcome]] = {}
        for name in options.strategies(strategy, generate):
            if generate:
                steps = GenerationPolicy(name, max_batch_size, max_batch_tokens, cache_tokens, 16, prefill_chunk)
                runners[name] = partial(
                    simulate_generation, workload, steps, decode_cost(costs, cost), fleet, handover_s=costs.handover_s
                )
            else:
                rows = options.policy_of(name, max_batch_size, max_batch_tokens, wait_s, longest_tokens)
                runners[name] = partial(run, workload, rows, costs, fleet)
        outcomes = {}
        for name, runner in runners.items():
            began_s = time.perf_counter()
            outcomes[name] = runner()
            _say(f"{name}: {len(workload):,} requests in {time.perf_counter() - began_s:.1f} s")
        runs = {name: summarise(outcome, slo_s, slo_itl_s) for name, outcome in outcomes.items()}
        about = {
            "workload": f"{len(workload):,} requests, {traffic.describe()}",
            "devices": str(devices),
            "costs": _cost_words(costs, generate),
            "settings": f"rows of {max_batch_size} and {max_batch_tokens} tokens"
            + (f", {cache_tokens} tokens of cache" if generate else f", {max_wait_ms} ms"),
        }
        if fail:
            about["failures"] = f"{', '.join(fail)}; back after {lease}, at most {max_attempts} attempts"
        if slo or slo_itl:
            about["slo"] = ", ".join([*([slo] if slo else []), *([f"{slo_itl} between tokens"] if slo_itl else [])])
        show_runs("Simulation", about, runs, as_json)
        if report is not None:
            from windrow.lab.report.charts import run_panels
            from windrow.lab.report.page import write_report
            from windrow.lab.report.tables import answer_rows, flow_rows, run_rows, work_rows

            tables = [rows(runs) for rows in (run_rows, answer_rows, work_rows, flow_rows)]
            _say(*write_report(report, "Simulation", about, tables, run_panels(outcomes)))


def _refuse_idle(context: typer.Context) -> None:
    """Refuse the options that would do nothing beside the others."""
    given, idle = context.params, partial(options.refuse, context)
    if given["against"] is not None:
        idle(
            given.keys() - {"against", "generate", "cost", "report", "as_json"},
            "with --against: the run says what it was",
        )
    if given["trace"] is not None:
        idle({"pattern", "median_tokens", "max_tokens"}, "with --trace, which has arrivals and lengths of its own")
    if given["generate"]:
        idle({"max_wait_ms"}, "with --generate: there is no window between two steps")
    else:
        idle({"median_output", "max_output", "cache_tokens", "prefill_chunk", "slo_itl"}, "without --generate")
    if not {"chunked", "all"} & set(given["strategy"] or ()):
        idle({"prefill_chunk"}, "without --strategy chunked")
    if not given["fail"]:
        idle({"lease", "max_attempts"}, "without --fail")


def _look_at_trace(context: typer.Context, traffic: Traffic) -> None:
    """Refuse the options for what the trace has itself, and say what of it is left out."""
    if traffic.trace is None:
        return
    generates, has_outputs = traffic.output_tokens is not None, traffic.trace_generates()
    if has_outputs:
        options.refuse(context, {"median_output", "max_output"}, "with a trace that has output lengths")
    if has_outputs or not generates:
        drawn = {"sigma"} if len(traffic.flows) > 1 else {"sigma", "seed"}
        options.refuse(context, drawn, "with a trace that leaves nothing to draw")
    if has_outputs and not generates:
        _say(f"{traffic.trace}: the tokens that it generates are left out; --generate simulates them")


def _lay_over(run: Path, cost: Path, report: Path | None, as_json: bool) -> None:
    """The arrivals, lengths and settings of a recorded run, simulated; and both beside each other."""
    from rich.console import Console

    from windrow.lab.measure.cost import read_cost
    from windrow.lab.report.overlay import compare, distributions, overlay_rows, simulate_again
    from windrow.lab.report.tables import show

    recording, outcomes = simulate_again(run, read_cost(cost), cost)
    compared = compare(recording, outcomes)
    if as_json:
        print_json({"run": str(run), "compared": compared})
    else:
        show(Console(), f"{run.name}: {len(recording.requests):,} requests", overlay_rows(compared))
    if report is not None:
        from windrow.lab.report.charts import distribution_panel
        from windrow.lab.report.page import write_report

        about = {"run": run.name, "strategy": recording.about["strategy"], "requests": f"{len(recording.requests):,}"}
        panel = distribution_panel(distributions(recording, outcomes))
        _say(*write_report(report, "Measured and simulated", about, [overlay_rows(compared)], [panel]))


def _cost_words(costs: CostModel, generates: bool) -> str:
    about = costs.about
    if generates:
        return str(about.get("decode", "steps as in the cost file"))
    return f"{about.get('model', 'a model')} on {about.get('device', 'a device')}"


def show_runs(title: str, about: Mapping[str, str], runs: Mapping[str, Any], as_json: bool) -> None:
    """Reports by name, as JSON or as tables."""
    if as_json:
        return print_json({**about, "runs": runs})
    from rich.console import Console

    from windrow.lab.report.tables import answer_rows, flow_rows, run_rows, show, work_rows

    console = Console()
    for name, value in about.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    show(console, title, run_rows(runs))
    show(console, "Answers; TTFT and ITL: to the first token and from one to the next, in ms", answer_rows(runs))
    show(console, "Devices; again: requests that came back from dead workers", work_rows(runs))
    show(console, "By tenant and priority", flow_rows(runs))


def _say(*parts: str | Path) -> None:
    print(*parts, file=sys.stderr, flush=True)
