"""``windrow bench``: measurements of users' own models and servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windrow.cli.bench_compare import compare
from windrow.cli.bench_serve import serve, sweep
from windrow.cli.lab_options import Pattern, Seed, require_writable
from windrow.cli.load_options import problems_reported

bench_app = typer.Typer(name="bench", help="Measure models on this machine, or a running server.", no_args_is_help=True)

bench_app.command()(compare)
bench_app.command()(serve)
bench_app.command()(sweep)


@bench_app.command()
def record(
    out: Annotated[Path, typer.Argument(dir_okay=False, help="File to write, with one JSON line per request.")],
    engine: Annotated[
        str | None,
        typer.Option(help="Model of the settings, measured at the queue; default: minilm, measured through the API."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second, sent without waiting for results.")] = 40.0,
    requests: Annotated[int, typer.Option(min=10, help="Number of requests.")] = 2000,
    pattern: Pattern = "poisson",
    strategy: Annotated[
        str | None,
        typer.Option(help="Batching strategy; default: the setting of the model, or packed without --engine."),
    ] = None,
    max_wait_ms: Annotated[
        str | None,
        typer.Option(
            help="Batching window in milliseconds, or auto; default: the setting of the model, or 5 without --engine."
        ),
    ] = None,
    scale: Annotated[
        float, typer.Option(min=0.02, max=1, help="Text generation only: factor that shortens prompts and completions.")
    ] = 1.0,
    seed: Seed = 0,
    pretend: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Start no server: each batch sleeps as long as this cost file says."
        ),
    ] = None,
) -> None:
    """Record a run against a real server, for `windrow simulate --against` and `windrow tune --from`."""
    with problems_reported():
        from windrow.cli.bench_record import RecordOptions, run

        require_writable(out, "OUT")
        run(RecordOptions(engine, rate, requests, pattern, strategy, max_wait_ms, scale, seed, pretend), out)
