"""``windrow serve | demo``: the commands that start a stack."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windrow.cli.output import Json, errors_reported, print_json, require_packages

if TYPE_CHECKING:
    from windrow.stack.serve import Stack

#: What a stack needs beyond the base install; it starts programs that import these packages.
EXTRAS = "server,worker"
PROGRAM_PACKAGES = ("gunicorn", "flask", "celery", "torch", "transformers")

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the logs of all programs here too.")]


def serve(
    folder: Annotated[Path, typer.Option(help="Folder for data and logs.")] = Path(".windrow"),
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Run Redis, the API, a worker and a housekeeping worker until Ctrl-C.

    Settings are read from windrow.toml and WINDROW_*. PORT is the port of the API (8000). CELERY_BROKER_URL is the
    Redis to use; if it is not set, a Redis server is started.
    """

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    with errors_reported(as_json, EXTRAS):
        require_packages(*PROGRAM_PACKAGES)
        from windrow.scheduler.connection.redis_url import without_password
        from windrow.stack.serve import serve as run

        def on_ready(stack: Stack) -> None:
            if as_json:
                print_json({"url": stack.url, "logs": str(stack.logs), "models": stack.served})
            else:
                say(f"serving {', '.join(stack.served)} on {stack.url} until Ctrl-C")
                say(f"Redis for subscribers and Celery callers: {without_password(stack.redis_url)}")

        raise typer.Exit(run(folder, say, on_ready=on_ready, is_verbose=verbose))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep serving afterwards, until Ctrl-C.")] = False,
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Number of texts for each strategy.")] = 300,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Start a stack, send demonstration traffic, show each batch and compare the strategies."""
    with errors_reported(as_json, EXTRAS):
        require_packages(*PROGRAM_PACKAGES)
        from rich.console import Console

        from windrow.demo.run import Demo

        show = Demo(Console(stderr=as_json), requests, keep=keep, is_verbose=verbose)
        exit_code = show.run()
        if as_json and show.report is not None:
            print_json(show.report)
        raise typer.Exit(exit_code)
