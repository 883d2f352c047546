"""``windrow simulate``: scheduling policies on a virtual clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli import lab_options as options
from windrow.cli.output import Json, errors_reported, log, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from windrow.lab.costs.cost import CostModel
    from windrow.lab.simulate.outcome import Outcome
    from windrow.lab.simulate.workload import Workload
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
    strategy: Annotated[
        list[str] | None, typer.Option(help="Strategy, repeatable: none, static, dynamic, bucket, packed or all.")
    ] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Maximum requests per batch.")] = 64,
    max_batch_tokens: options.BatchTokens = 16384,
    max_wait_ms: options.MaxWait = "5",
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="Number of devices.")] = 1,
    fail: Annotated[
        list[str] | None, typer.Option(help="Failure of a worker, WHEN:DEVICE:HOW_LONG such as 10s:0:5s; repeatable.")
    ] = None,
    lease: Annotated[str, typer.Option(help="Time until the requests of a dead worker are requeued.")] = "15s",
    max_attempts: Annotated[int, typer.Option(min=1, help="Attempts per request.")] = 3,
    slo: Annotated[
        str | None,
        typer.Option(help="Latency objective, such as 300ms; with --generate, of the first token."),
    ] = None,
    generate: options.Generate = False,
    median_output: options.MedianOutput = 100,
    max_output: options.MaxOutput = 1000,
    cache_tokens: options.CacheTokens = 200_000,
    prefill_chunk: Annotated[int, typer.Option(min=1, help="Only for chunked: prompt tokens per step.")] = 512,
    slo_itl: Annotated[
        str | None, typer.Option(help="Objective for the mean inter-token latency, such as 50ms.")
    ] = None,
    cost: options.Cost = options.DEFAULT_COST,
    against: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Simulate this recorded run and compare the results with it."),
    ] = None,
    report: options.Report = None,
    as_json: Json = False,
) -> None:
    """Run a workload through the scheduler on a virtual clock, and report latency, throughput and batches.

    The time of each batch comes from a cost file of `windrow tune`; the default is that of the default model on two CPU
    cores.
    """
    with errors_reported(as_json, "lab"), options.many_objects(report):
        from windrow.lab.costs.cost import read_cost
        from windrow.lab.measure.figures import summarise
        from windrow.lab.report.tables import answer_rows, flow_rows, run_rows, show_report, work_rows

        _refuse_idle(context)
        if against is not None:
            _compare_with_run(against, cost, report, as_json)
            return
        slo_s = None if slo is None else options.seconds(slo, "--slo")
        slo_itl_s = None if slo_itl is None else options.seconds(slo_itl, "--slo-itl")
        traffic = options.read_traffic(context.params)
        _check_trace(context, traffic)
        costs = read_cost(cost)
        workload = traffic.workload()
        outcomes = {}
        for name, runner in _make_runners(context.params, workload, costs).items():
            began_s = time.perf_counter()
            outcomes[name] = runner()
            log(f"{name}: {len(workload):,} requests in {time.perf_counter() - began_s:.1f} s")
        runs = {name: summarise(outcome, slo_s, slo_itl_s) for name, outcome in outcomes.items()}
        about = {"workload": f"{len(workload):,} requests, {traffic.describe()}"} | _describe(context.params, costs)
        tables = {
            "Simulation": run_rows(runs),
            "Results; TTFT: time to first token, ITL: inter-token latency, in ms": answer_rows(runs),
            "Devices; again: requests requeued from dead workers": work_rows(runs),
            "By tenant and priority": flow_rows(runs),
        }
        print_json({**about, "runs": runs}) if as_json else show_report(about, tables.items())
        if report is not None:
            from windrow.lab.report.charts import run_panels
            from windrow.lab.report.page import write_report

            log(*write_report(report, "Simulation", about, list(tables.values()), run_panels(outcomes)))


def _make_runners(given: Mapping[str, Any], workload: Workload, costs: CostModel) -> dict[str, Callable[[], Outcome]]:
    """Return the simulation of each strategy, to be called."""
    from windrow.lab.costs.cost import decode_cost
    from windrow.lab.simulate.generation import GenerationPolicy, simulate_generation
    from windrow.lab.simulate.outcome import Fleet
    from windrow.lab.simulate.simulation import simulate as run

    failures, lease_s = options.read_failures(given["fail"]), options.seconds(given["lease"], "--lease")
    fleet = Fleet(given["devices"], failures, lease_s, given["max_attempts"])
    wait_s = options.read_wait_s(given["max_wait_ms"])
    longest_tokens = given["max_tokens"] if given["trace"] is None else max(workload.tokens)
    limits = (given["max_batch_size"], given["max_batch_tokens"])
    runners: dict[str, Callable[[], Outcome]] = {}
    for name in options.strategies(given["strategy"], given["generate"]):
        if given["generate"]:
            steps = GenerationPolicy(name, *limits, given["cache_tokens"], 16, given["prefill_chunk"])
            decode = decode_cost(costs, Path(given["cost"]))
            runners[name] = partial(simulate_generation, workload, steps, decode, fleet, handover_s=costs.handover_s)
        else:
            runners[name] = partial(
                run, workload, options.policy_of(name, *limits, wait_s, longest_tokens), costs, fleet
            )
    return runners


def _describe(given: Mapping[str, Any], costs: CostModel) -> dict[str, str]:
    """Describe the devices, costs and settings of a simulation."""
    settings = f"batches of {given['max_batch_size']} requests and {given['max_batch_tokens']} tokens, "
    about = {"devices": str(given["devices"])}
    if given["generate"]:
        about["costs"] = str(costs.about.get("decode", "steps as in the cost file"))
        about["settings"] = settings + f"a KV cache of {given['cache_tokens']} tokens"
    else:
        about["costs"] = f"{costs.about.get('model', 'a model')} on {costs.about.get('device', 'a device')}"
        about["settings"] = settings + f"a window of {given['max_wait_ms']} ms"
    if given["fail"]:
        times = f"requeued after {given['lease']}, at most {given['max_attempts']} attempts"
        about["failures"] = f"{', '.join(given['fail'])}; {times}"
    slos = [given["slo"], given["slo_itl"] and f"{given['slo_itl']} between tokens"]
    return about | ({"slo": ", ".join(filter(None, slos))} if any(slos) else {})


def _refuse_idle(context: typer.Context) -> None:
    """Refuse options that have no effect together with the others."""
    given, idle = context.params, partial(options.refuse, context)
    if given["against"] is not None:
        idle(
            given.keys() - {"against", "generate", "cost", "report", "as_json"},
            "with --against, which reads them from the run",
        )
    if given["trace"] is not None:
        idle({"pattern", "median_tokens", "max_tokens"}, "with --trace, which contains arrivals and lengths")
    if given["generate"]:
        idle({"max_wait_ms"}, "with --generate, which has no window")
    else:
        idle({"median_output", "max_output", "cache_tokens", "prefill_chunk", "slo_itl"}, "without --generate")
    if not {"chunked", "all"} & set(given["strategy"] or ()):
        idle({"prefill_chunk"}, "without --strategy chunked")
    if not given["fail"]:
        idle({"lease", "max_attempts"}, "without --fail")


def _check_trace(context: typer.Context, traffic: Traffic) -> None:
    """Refuse options for values that the trace contains, and report which part of the trace is not used."""
    if traffic.trace is None:
        return
    generates, has_outputs = traffic.output_tokens is not None, traffic.trace_generates()
    if has_outputs:
        options.refuse(context, {"median_output", "max_output"}, "with a trace that contains completion lengths")
    if has_outputs or not generates:
        drawn = {"sigma"} if len(traffic.flows) > 1 else {"sigma", "seed"}
        options.refuse(context, drawn, "with a trace that leaves nothing to draw at random")
    if has_outputs and not generates:
        log(f"{traffic.trace}: its completion lengths are ignored without --generate")


def _compare_with_run(run: Path, cost: Path, report: Path | None, as_json: bool) -> None:
    """Simulate the arrivals, lengths and settings of a recorded run, and compare the results with the run."""
    from windrow.lab.costs.cost import read_cost
    from windrow.lab.report.overlay import compare, distributions, overlay_rows, simulate_again
    from windrow.lab.report.tables import show_report

    recording, outcomes = simulate_again(run, read_cost(cost), cost)
    compared = compare(recording, outcomes)
    rows = overlay_rows(compared)
    if as_json:
        print_json({"run": str(run), "compared": compared})
    else:
        show_report({}, [(f"{run.name}: {len(recording.requests):,} requests", rows)])
    if report is not None:
        from windrow.lab.report.charts import distribution_panel
        from windrow.lab.report.page import write_report

        about = {"run": run.name, "strategy": recording.about["strategy"], "requests": f"{len(recording.requests):,}"}
        panel = distribution_panel(distributions(recording, outcomes))
        log(*write_report(report, "Measured and simulated", about, [rows], [panel]))
