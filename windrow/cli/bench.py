"""``windrow bench``: measurements of users' own models and servers."""

from __future__ import annotations

import typer

from windrow.cli.bench_compare import compare
from windrow.cli.bench_record import record
from windrow.cli.bench_serve import serve, sweep

bench_app = typer.Typer(name="bench", help="Measure models on this machine, or a running server.", no_args_is_help=True)

for command in (compare, serve, sweep, record):
    bench_app.command()(command)
