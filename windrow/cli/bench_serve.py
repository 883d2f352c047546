"""``windrow bench serve`` and ``windrow bench sweep``: load tests of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.lab_options import Pattern, Report, check_pattern, seconds
from windrow.cli.load_options import Dataset, JsonFile, publish, read_numbers
from windrow.cli.output import errors_reported, log
from windrow.cli.requests import NO_URL, Url, connect

if TYPE_CHECKING:
    from windrow.bench.dataset import Item
    from windrow.bench.serve.load import Answer

#: Requests sent before the measurement, which open the connections and let the worker measure its rate.
WARM_UP = 20
#: Generated texts of a sweep without a dataset.
SWEEP_TEXTS = 1000
Model = Annotated[str | None, typer.Option(help="Model of the server; optional if it has only one.")]
Slo = Annotated[
    str | None, typer.Option(help="Latency objective, such as 300ms; for text generation, of the first token.")
]
SloItl = Annotated[str | None, typer.Option(help="Objective for the mean inter-token latency, such as 50ms.")]
OutputTokens = Annotated[float, typer.Option(min=1, help="Text generation only: median completion length, in tokens.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed of the texts and arrival times.")]


def serve(
    url: Url = NO_URL,
    model: Model = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Requests per second, sent without waiting for results.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Instead of --rate: concurrent users, each with one request at a time.")
    ] = None,
    requests: Annotated[int, typer.Option(min=2, help="Number of requests.")] = 500,
    pattern: Pattern = "poisson",
    dataset: Dataset = None,
    slo: Slo = None,
    slo_itl: SloItl = None,
    output_tokens: OutputTokens = 32.0,
    seed: Seed = 20,
    report: Report = None,
    json_file: JsonFile = None,
) -> None:
    """Load a running server at a rate or with concurrent users; the API key is read from WINDROW_API_KEY."""
    with errors_reported(as_json=False, extra="lab"):
        from windrow.bench.serve.report import failure_notes, panels, summarise, tables
        from windrow.lab.report.page import check_report

        check_report(report)
        limits_s = _limits_s(slo, slo_itl)
        if (rate is None) == (concurrency is None):
            raise ValueError("takes one of --rate and --concurrency")
        about = _served(url, model)
        items = _items(dataset, requests, seed, about, output_tokens)
        due_s = None if rate is None else _arrivals(pattern, rate, requests, seed)
        answers = asyncio.run(_load(url, about, items, due_s, concurrency or 1))
        made = summarise(answers, *limits_s)
        load = f"{concurrency} users" if rate is None else f"{rate:g} requests/s, {pattern}"
        about = about | {"load": f"{requests} requests, {load}"}
        made = {**about, "offered_per_s": rate, "concurrency": concurrency, **made}
        notes = failure_notes(made)
        publish("Served", about, tables(made), notes, made, json_file, report, lambda: panels(answers))


def sweep(
    url: Url = NO_URL,
    model: Model = None,
    rates: Annotated[
        str | None,
        typer.Option(
            help="Requests per second, separated by commas; default: from a fifth of the measured capacity to above it."
        ),
    ] = None,
    step: Annotated[float, typer.Option("--seconds", min=1, help="Duration of each rate, in seconds.")] = 10.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent users that measure the capacity first.")] = 64,
    pattern: Pattern = "poisson",
    dataset: Dataset = None,
    slo: Slo = None,
    slo_itl: SloItl = None,
    output_tokens: OutputTokens = 32.0,
    seed: Seed = 20,
    report: Report = None,
    json_file: JsonFile = None,
) -> None:
    """Load a running server at rising rates, and find the highest rate that it sustains."""
    with errors_reported(as_json=False, extra="lab"):
        from windrow.bench.serve.sweep import summarise_sweep, sweep_panels, sweep_rows
        from windrow.lab.report.page import check_report

        check_report(report)
        limits_s = _limits_s(slo, slo_itl)
        tried = None if rates is None else read_numbers(rates, "--rates")
        check_pattern(pattern)
        about = _served(url, model)
        items = _items(dataset, SWEEP_TEXTS, seed, about, output_tokens)
        answers = asyncio.run(_sweep(url, about, items, tried, concurrency, step, pattern, seed))
        made = {**about, **summarise_sweep(answers, *limits_s)}
        knee = made["knee_per_s"]
        within = " within the limits at p99" if slo or slo_itl else ""
        about = about | {
            "load": f"{pattern}, {step:g} s per rate",
            "knee": f"{knee:g} requests/s{within}" if knee else f"below {min(answers):g} requests/s{within}",
        }
        drawn = [sweep_rows(made)]
        publish("Sweep", about, drawn, [], made, json_file, report, lambda: sweep_panels(made, answers))


async def _load(
    url: str, about: Mapping[str, Any], items: list[Item], due_s: list[float] | None, users: int
) -> list[Answer]:
    from windrow.bench.serve.load import Server, at_times, by_users

    async with Server(url, about["model"]) as server:
        ask = server.follow if _streams(about) else server.ask
        await by_users(ask, items[:WARM_UP], users)
        return await (by_users(ask, items, users) if due_s is None else at_times(ask, items, due_s))


async def _sweep(
    url: str,
    about: Mapping[str, Any],
    items: list[Item],
    rates: list[float] | None,
    users: int,
    step_s: float,
    pattern: str,
    seed: int,
) -> dict[float, list[Answer]]:
    from windrow.bench.serve.load import Server, by_users
    from windrow.bench.serve.sweep import find_rates
    from windrow.bench.serve.sweep import sweep as run

    async with Server(url, about["model"]) as server:
        ask = server.follow if _streams(about) else server.ask
        await by_users(ask, items[:WARM_UP], users)
        if rates is None:
            rates = await find_rates(ask, items, users, step_s)
            log(f"rates: {', '.join(f'{rate:g}' for rate in rates)}")
        return await run(ask, items, rates, step_s, pattern, seed, log)


def _items(dataset: Path | None, count: int, seed: int, about: Mapping[str, Any], output_tokens: float) -> list[Item]:
    from windrow.bench.dataset import load_items, with_lengths

    items = load_items(dataset, count, seed)
    return with_lengths(items, output_tokens, seed) if _streams(about) else items


def _streams(about: Mapping[str, Any]) -> bool:
    """Whether the model streams its output."""
    from windrow.scheduler.tasks import TASKS

    task = TASKS.get(about["task"])
    return task is not None and task.streams


def _limits_s(slo: str | None, slo_itl: str | None) -> tuple[float | None, float | None]:
    return (
        None if slo is None else seconds(slo, "--slo"),
        None if slo_itl is None else seconds(slo_itl, "--slo-itl"),
    )


def _served(url: str, model: str | None) -> dict[str, Any]:
    """Return the server's description of the model. Raises `ClientError`, and `ValueError` for an unknown model."""
    with connect(url, timeout_s=10.0) as client:
        listed = {described["id"]: described for described in client.models()}
    if model is None and len(listed) == 1:
        (model,) = listed
    if model not in listed:
        given = "is required" if model is None else repr(model)
        raise ValueError(f"--model {given}: takes a model of the server: {', '.join(listed)}")
    described = listed[model]
    shown = ("task", "device", "strategy", "wait_ms")
    return {"model": model} | {name: described[name] for name in shown if described.get(name)}


def _arrivals(pattern: str, rate_per_s: float, requests: int, seed: int) -> list[float]:
    import numpy as np

    from windrow.lab.simulate.workload import PATTERNS, draw_arrivals

    check_pattern(pattern)
    return draw_arrivals(PATTERNS[pattern], rate_per_s, requests, np.random.default_rng(seed))
