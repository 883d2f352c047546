"""The ``windrow`` command and its subcommands, each of which imports what it needs when it runs."""

from __future__ import annotations

import typer

from windrow.cli import bench_serve
from windrow.cli.bench_compare import compare
from windrow.cli.bench_record import record
from windrow.cli.dead import dead_app
from windrow.cli.keys import key_app
from windrow.cli.plan import plan
from windrow.cli.requests import cancel, get, models, predict
from windrow.cli.simulate import simulate
from windrow.cli.stack import demo, serve
from windrow.cli.tune import tune

app = typer.Typer(
    name="windrow",
    help="Batch inference on Flask, Celery and Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (serve, demo, predict, get, cancel, models, tune, simulate, plan):
    app.command()(command)
bench_app = typer.Typer(name="bench", help="Measure models on this machine, or a running server.", no_args_is_help=True)
for measurement in (compare, bench_serve.serve, bench_serve.sweep, record):
    bench_app.command()(measurement)
app.add_typer(bench_app)
app.add_typer(key_app)
app.add_typer(dead_app)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        from windrow import __version__

        print(__version__)
        raise typer.Exit
