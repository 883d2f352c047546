"""``python -m benchmarks``: the benchmarks of this project, as commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from windrow.cli.load_options import JsonFile, problems_reported, write_json
from windrow.cli.output import FAILED, fail

app = typer.Typer(
    name="benchmarks", help="Measure Windrow on this machine.", no_args_is_help=True, add_completion=False
)


@app.command("http")
def http_(
    clients: Annotated[int, typer.Option(min=1, help="Connections, each with one request at a time.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Times every contender is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of one measurement.")] = 15.0,
    texts: Annotated[int, typer.Option(min=1, help="Texts of 3 to 400 words, sent over and over.")] = 1000,
    warm: Annotated[float, typer.Option(min=0, help="Seconds of load before each measurement.")] = 4.0,
    json_file: JsonFile = None,
) -> None:
    """Windrow over HTTP between its bound, the engine alone, and plain Celery."""
    from benchmarks.http.run import run_http
    from benchmarks.show import show_http

    with problems_reported():
        _finish(run_http(clients, rounds, seconds, texts, warm, _say), show_http, json_file)


@app.command()
def queue(
    items: Annotated[int, typer.Option(min=1000, help="Items through the data plane.")] = 200_000,
    payload_bytes: Annotated[int, typer.Option(min=40, help="Size of each.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Items in a row.")] = 256,
    depth: Annotated[int, typer.Option(min=1000, help="Waiting requests of the memory and claim figures.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="Times each rate is measured.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """The data plane without a model: items a second, bytes a waiting request, claim times; and plain Celery."""
    from benchmarks.queue.run import run_queue
    from benchmarks.show import show_figures

    with problems_reported():
        report = run_queue(items, payload_bytes, batch_size, depth, rounds, _say)
        _finish(report, lambda console, made: show_figures(console, "Data plane", made["figures"]), json_file)


@app.command()
def lone(
    requests: Annotated[int, typer.Option(min=10, help="Requests, one at a time.")] = 200,
    json_file: JsonFile = None,
) -> None:
    """One client, one request at a time, against the model call itself."""
    from benchmarks.http.lone import run_lone
    from benchmarks.show import show_figures

    with problems_reported():
        report = run_lone(requests, _say)
        _finish(report, lambda console, made: show_figures(console, "A lone client", made["figures"]), json_file)


@app.command()
def encoder(
    items: Annotated[int, typer.Option(min=1000, help="Texts that wait in the queue, for each device.")] = 200_000,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Texts in a row.")] = 256,
    batch_tokens: Annotated[int, typer.Option(min=64, help="Tokens in a pass.")] = 16_384,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model; BERT-base has 12.")] = 12,
    words: Annotated[float, typer.Option(min=1, help="Of a text, on average.")] = 58.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share a device.")] = 3,
    devices: Annotated[int, typer.Option(min=1, help="Devices; one alone is measured beside them.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Times that the queue is emptied.")] = 3,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second, sent whatever comes back.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the open loop and of each bound.")] = 5.0,
    json_file: JsonFile = None,
) -> None:
    """A BERT classifier of random weights: through the queue beside the device alone, one by one, and at a rate."""
    from benchmarks.encoder.run import Sizes, run_encoder
    from benchmarks.show import show_figures

    sizes = Sizes(items, batch_size, batch_tokens, layers, words, processes, devices, rounds, rate, seconds)
    with problems_reported():
        report = run_encoder(sizes, _say)
        _finish(report, lambda console, made: show_figures(console, "An encoder", made["figures"]), json_file)


@app.command()
def gateway(
    requests: Annotated[int, typer.Option(min=16, help="Tasks at once, on the devices that only sleep.")] = 320,
    texts: Annotated[int, typer.Option(min=16, help="Texts at once, on the model.")] = 192,
    rounds: Annotated[int, typer.Option(min=1, help="Times each way is measured.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Many tasks of one process: one request a pass, passes of 8 and of 16; on a fixed cost a pass and on a model."""
    from benchmarks.gateway import run_gateway
    from benchmarks.show import show_figures

    with problems_reported():
        report = run_gateway(requests, texts, rounds, _say)
        _finish(report, lambda console, made: show_figures(console, "Gateway", made["figures"]), json_file)


@app.command()
def generate(
    only: Annotated[list[str] | None, typer.Argument(help="Contenders, by name; all of them when left out.")] = None,
    requests: Annotated[int, typer.Option(min=8, help="Requests, all there when it begins.")] = 512,
    shape: Annotated[str | None, typer.Option(help="1b or small; what fits the device when left out.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Sequences at once, continuous.")] = 512,
    static_size: Annotated[int, typer.Option(min=1, max=1000, help="Sequences of a static batch.")] = 32,
    scale: Annotated[float, typer.Option(min=0.05, max=1, help="Shortens prompts and answers alike.")] = 1.0,
    json_file: JsonFile = None,
) -> None:
    """A Llama of random weights: one by one, static, continuous, and transformers' own continuous batching."""
    from benchmarks.generate.run import run_generate
    from benchmarks.show import show_generation

    with problems_reported():
        report = run_generate(requests, shape, batch_size, static_size, scale, only or [], _say)
        _finish(report, show_generation, json_file)


@app.command("generate-queue")
def generate_queue(
    requests: Annotated[int, typer.Option(min=8, help="Requests, all there when it begins.")] = 512,
    shape: Annotated[str | None, typer.Option(help="1b or small; what fits the device when left out.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Sequences at once.")] = 512,
    scale: Annotated[float, typer.Option(min=0.05, max=1, help="Shortens prompts and answers alike.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Times that the load is answered, either way.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each load that comes at a rate.")] = 8.0,
    json_file: JsonFile = None,
) -> None:
    """What the queue costs generation, and how long tokens take at 25, 50, 75 and 90 % of its capacity."""
    from benchmarks.generate.queue import run_generate_queue
    from benchmarks.show import show_figures

    with problems_reported():
        report = run_generate_queue(requests, shape, batch_size, scale, rounds, seconds, _say)
        title = "Generation behind the queue"
        _finish(report, lambda console, made: show_figures(console, title, made["figures"]), json_file)


@app.command()
def faults(
    only: Annotated[list[str] | None, typer.Argument(help="Scenarios, by name; all of them when left out.")] = None,
    names: Annotated[bool, typer.Option("--list", help="List the scenarios and leave.")] = False,
    requests: Annotated[int, typer.Option(min=150, help="Requests through all kills of workers.")] = 10_000,
    redis_kills: Annotated[int, typer.Option(min=1, help="Times that Redis is killed.")] = 50,
    silent: Annotated[float, typer.Option(min=1, help="Seconds that a line to Redis is silent.")] = 60.0,
    overload: Annotated[float, typer.Option(min=4, help="Seconds of overload.")] = 60.0,
    restarts: Annotated[int, typer.Option(min=1, help="Rounds of rolling restarts.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Kill, cut off and overload real processes, and look for what was lost. Ends with 1 where a promise was broken."""
    from benchmarks.faults.scenarios import Sizes, run_faults, scenarios
    from benchmarks.show import show_faults

    sizes = Sizes(requests, redis_kills, silent, overload, restarts)
    if names:
        print("\n".join(scenarios(sizes)))
        return
    with problems_reported():
        report = run_faults(sizes, only or [], _say)
        _finish(report, show_faults, json_file)
        if broken := [name for name, one in report["scenarios"].items() if one["broken"]]:
            fail("promise_broken", f"not as promised: {', '.join(broken)}", FAILED, as_json=False)


def _finish(report: dict[str, Any], show: Any, json_file: Path | None) -> None:
    from rich.console import Console

    show(Console(), report)
    write_json(json_file, report)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
