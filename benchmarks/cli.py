"""``python -m benchmarks``: the commands that run the benchmarks of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from windrow.cli.load_options import JsonFile, problems_reported, write_json
from windrow.cli.output import FAILED, fail, log

app = typer.Typer(
    name="benchmarks", help="Measure Windrow on this machine.", no_args_is_help=True, add_completion=False
)


@app.command("http")
def http_(
    clients: Annotated[int, typer.Option(min=1, help="Connections, each with one request at a time.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of one measurement in seconds.")] = 15.0,
    texts: Annotated[int, typer.Option(min=1, help="Number of different texts of 3 to 400 words.")] = 1000,
    warm: Annotated[float, typer.Option(min=0, help="Seconds of load before each measurement.")] = 4.0,
    json_file: JsonFile = None,
) -> None:
    """Compare Windrow over HTTP with the engine alone and with plain Celery."""
    from benchmarks.http.run import run_http
    from benchmarks.show import show_http

    with problems_reported():
        _finish(run_http(clients, rounds, seconds, texts, warm, log), show_http, json_file)


@app.command()
def queue(
    items: Annotated[int, typer.Option(min=1000, help="Requests sent through the queue.")] = 200_000,
    payload_bytes: Annotated[int, typer.Option(min=40, help="Payload of each request in bytes.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Requests per batch.")] = 256,
    depth: Annotated[int, typer.Option(min=1000, help="Waiting requests for the memory and claim figures.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each rate is measured.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Measure the queue without a model (throughput, memory, claim times), and plain Celery."""
    from benchmarks.queue.run import run_queue

    with problems_reported():
        _finish_figures(run_queue(items, payload_bytes, batch_size, depth, rounds, log), "Data plane", json_file)


@app.command()
def lone(
    requests: Annotated[int, typer.Option(min=10, help="Requests, sent one at a time.")] = 200,
    json_file: JsonFile = None,
) -> None:
    """Compare the latency of a single client with that of the model call alone."""
    from benchmarks.http.lone import run_lone

    with problems_reported():
        _finish_figures(run_lone(requests, log), "A lone client", json_file)


@app.command()
def encoder(
    items: Annotated[int, typer.Option(min=1000, help="Texts queued per device.")] = 200_000,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Texts per batch buffer (max_batch_size).")] = 256,
    batch_tokens: Annotated[int, typer.Option(min=64, help="Tokens per batch (max_batch_tokens).")] = 16_384,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model; BERT-base has 12.")] = 12,
    words: Annotated[float, typer.Option(min=1, help="Mean words per text.")] = 58.0,
    processes: Annotated[int, typer.Option(min=1, help="Pool processes per device.")] = 3,
    devices: Annotated[int, typer.Option(min=1, help="CUDA devices; one device is also measured alone.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How often the queue is filled and emptied.")] = 3,
    rate: Annotated[float, typer.Option(min=1, help="Open loop: requests per second.")] = 1000.0,
    seconds: Annotated[
        float, typer.Option(min=1, help="Length of the open loop and of each upper bound, in seconds.")
    ] = 5.0,
    json_file: JsonFile = None,
) -> None:
    """Compare a BERT classifier behind the queue with the CUDA device alone; measure latencies."""
    from benchmarks.encoder.run import Sizes, run_encoder

    sizes = Sizes(items, batch_size, batch_tokens, layers, words, processes, devices, rounds, rate, seconds)
    with problems_reported():
        _finish_figures(run_encoder(sizes, log), "An encoder", json_file)


@app.command()
def gateway(
    requests: Annotated[int, typer.Option(min=16, help="Concurrent tasks on the simulated devices.")] = 320,
    texts: Annotated[int, typer.Option(min=16, help="Concurrent tasks on the model.")] = 192,
    rounds: Annotated[int, typer.Option(min=1, help="How often each configuration is measured.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Compare InferenceGateway with batches of 8 and 16 to one request at a time, on simulated devices and a model."""
    from benchmarks.gateway import run_gateway

    with problems_reported():
        _finish_figures(run_gateway(requests, texts, rounds, log), "Gateway", json_file)


@app.command()
def generate(
    only: Annotated[list[str] | None, typer.Argument(help="Contenders; default: all.")] = None,
    requests: Annotated[int, typer.Option(min=8, help="Requests, all submitted at the start.")] = 512,
    shape: Annotated[
        str | None, typer.Option(help="Model size, 1b or small; default: 1b with CUDA, else small.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=1000, help="Concurrent sequences of continuous batching.")
    ] = 512,
    static_size: Annotated[int, typer.Option(min=1, max=1000, help="Sequences per static batch.")] = 32,
    scale: Annotated[float, typer.Option(min=0.05, max=1, help="Factor on the length of prompts and answers.")] = 1.0,
    json_file: JsonFile = None,
) -> None:
    """Compare batching strategies for generation, and those of transformers, on a Llama with random weights."""
    from benchmarks.generate.run import run_generate
    from benchmarks.show import show_generation

    with problems_reported():
        report = run_generate(requests, shape, batch_size, static_size, scale, only or [], log)
        _finish(report, show_generation, json_file)


@app.command("generate-queue")
def generate_queue(
    requests: Annotated[int, typer.Option(min=8, help="Requests, all submitted at the start.")] = 512,
    shape: Annotated[
        str | None, typer.Option(help="Model size, 1b or small; default: 1b with CUDA, else small.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Concurrent sequences.")] = 512,
    scale: Annotated[float, typer.Option(min=0.05, max=1, help="Factor on the length of prompts and answers.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often the load runs, directly and through the queue.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each open loop in seconds.")] = 8.0,
    json_file: JsonFile = None,
) -> None:
    """Measure what the queue costs generation, and token latencies at 25, 50, 75 and 90 % of the capacity."""
    from benchmarks.generate.queue import run_generate_queue

    with problems_reported():
        report = run_generate_queue(requests, shape, batch_size, scale, rounds, seconds, log)
        _finish_figures(report, "Generation behind the queue", json_file)


@app.command()
def faults(
    only: Annotated[list[str] | None, typer.Argument(help="Scenarios; default: all.")] = None,
    names: Annotated[bool, typer.Option("--list", help="List the scenarios and exit.")] = False,
    requests: Annotated[
        int, typer.Option(min=150, help="Requests of the scenarios that kill workers, in total.")
    ] = 10_000,
    redis_kills: Annotated[int, typer.Option(min=1, help="How often Redis is killed.")] = 50,
    silent: Annotated[float, typer.Option(min=1, help="Length of a network partition in seconds.")] = 60.0,
    overload: Annotated[float, typer.Option(min=4, help="Length of each overload in seconds.")] = 60.0,
    restarts: Annotated[int, typer.Option(min=1, help="How often all programs are restarted one after another.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Kill, disconnect and overload real processes, and count lost requests. Exits with 1 if a promise is broken."""
    from benchmarks.faults.scenarios import Sizes, run_faults, scenarios
    from benchmarks.show import show_faults

    sizes = Sizes(requests, redis_kills, silent, overload, restarts)
    if names:
        print("\n".join(scenarios(sizes)))
        return
    with problems_reported():
        report = run_faults(sizes, only or [], log)
        _finish(report, show_faults, json_file)
        if broken := [name for name, scenario in report["scenarios"].items() if scenario["broken"]]:
            fail("promise_broken", f"scenarios with a broken promise: {', '.join(broken)}", FAILED, as_json=False)


def _finish_figures(report: dict[str, Any], title: str, json_file: Path | None) -> None:
    from benchmarks.show import show_figures

    _finish(report, lambda console, report: show_figures(console, title, report["figures"]), json_file)


def _finish(report: dict[str, Any], show: Any, json_file: Path | None) -> None:
    from rich.console import Console

    show(Console(), report)
    write_json(json_file, report)
