"""``windrow bench ...``: measurements that users take of their own models and servers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from windrow.cli.bench_compare import compare
from windrow.cli.bench_serve import serve, sweep
from windrow.cli.load_options import problems_reported

bench_app = typer.Typer(name="bench", help="Measure Windrow on this machine.", no_args_is_help=True)

bench_app.command()(compare)
bench_app.command()(serve)
bench_app.command()(sweep)


@bench_app.command()
def record(
    out: Annotated[Path, typer.Argument(dir_okay=False, help="File to write, one JSON line a request.")],
    engine: Annotated[
        str | None,
        typer.Option(help="A model of the settings, straight through the queue; else minilm behind the API."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second, sent whatever comes back.")] = 40.0,
    requests: Annotated[int, typer.Option(min=10, help="How many.")] = 2000,
    pattern: Annotated[str, typer.Option(help="How they arrive: poisson, bursts, diurnal or ramp.")] = "poisson",
    strategy: Annotated[
        str | None, typer.Option(help="Of the model; else as it is set, and packed without --engine.")
    ] = None,
    max_wait_ms: Annotated[
        str | None, typer.Option(help="How long a row waits for company, or auto; else as it is set, and 5.")
    ] = None,
    scale: Annotated[
        float, typer.Option(min=0.02, max=1, help="Where text is generated: shortens prompts and answers alike.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same arrivals.")] = 0,
    pretend: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="No server: passes of a worker sleep as this cost file says."),
    ] = None,
) -> None:
    """A run against a real server, written down for `windrow simulate --against` and `windrow tune --from`."""
    from windrow.cli import bench_record as record_cli
    from windrow.cli.lab_options import require_writable

    with problems_reported():
        require_writable(out, "OUT")
        record_cli.run(
            record_cli.Asked(engine, rate, requests, pattern, strategy, max_wait_ms, scale, seed, pretend), out, _say
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
