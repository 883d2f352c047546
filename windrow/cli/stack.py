"""``windrow serve | demo``: the commands that start a stack."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windrow.cli.output import errors_reported, print_json

if TYPE_CHECKING:
    from windrow.stack.serve import Stack

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, everything else on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of all programs here too.")]


def serve(
    folder: Annotated[Path, typer.Option(help="Where data and logs go.")] = Path(".windrow"),
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Run Redis, one API, one worker and one housekeeping worker until Ctrl-C.

    Settings come from windrow.toml and WINDROW_*; PORT is the port (8000), CELERY_BROKER_URL a Redis to use instead of
    one of our own.
    """
    from windrow.scheduler.connection.redis_url import without_password
    from windrow.stack.serve import serve as run

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    def on_ready(stack: Stack) -> None:
        if as_json:
            print_json({"url": stack.url, "logs": str(stack.logs), "models": stack.served})
        else:
            say(f"serving {', '.join(stack.served)} on {stack.url} until Ctrl-C")
            say(f"subscribers and Celery callers: {without_password(stack.redis_url)}")

    with errors_reported(as_json):
        raise typer.Exit(run(folder, say, on_ready=on_ready, is_verbose=verbose))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep serving afterwards, until Ctrl-C.")] = False,
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Texts through each strategy.")] = 300,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Start everything, send demonstration traffic, show each batch and a comparison of the strategies."""
    from rich.console import Console

    from windrow.demo.run import Demo

    show = Demo(Console(stderr=as_json), requests, keep=keep, is_verbose=verbose)
    with errors_reported(as_json):
        exit_code = show.run()
        if as_json and show.report is not None:
            print_json(show.report)
        raise typer.Exit(exit_code)
