"""Command output: JSON or text for people, errors, and the exit code of each error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from windrow.client.event_stream import StreamEvent
    from windrow.client.prediction import Prediction

FAILED, USAGE, UNREACHABLE = 1, 2, 3
#: Elements of a list that are shown to people.
SHOWN_ITEMS = 4

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and everything else on stderr.")]


@contextmanager
def errors_reported(as_json: bool, extra: str = "") -> Iterator[None]:
    """Report an error that a user can cause as one line on stderr, and exit with its code.

    ``extra`` names the extras of the distribution that the command needs. Import their packages inside the block: a
    package that is not installed is reported with the command that installs it.
    """
    from windrow.errors import ClientError, ServerUnreachable, WindrowError

    try:
        yield
    except ClientError as error:
        fail(error.code, error.detail, UNREACHABLE if isinstance(error, ServerUnreachable) else FAILED, as_json)
    except WindrowError as error:
        fail(error.code, error.detail, USAGE if error.code == "invalid_setting" else FAILED, as_json)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not extra or package in ("", "windrow"):
            raise
        fail("missing_package", missing_package(package, extra), USAGE, as_json)
    except ValueError as error:
        fail("usage", str(error), USAGE, as_json)


def missing_package(package: str, extra: str) -> str:
    """Describe a missing package and how to install the extra that has it."""
    return (
        f"this command needs the package {package!r}, which is not installed; install it with: "
        f"pip install 'windrow-inference[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
    )


def require_packages(*names: str) -> None:
    """Raise `ModuleNotFoundError` for the first package that is not installed, without importing any of them."""
    for name in names:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def fail(code: str, detail: str, exit_code: int, as_json: bool) -> None:
    """Print an error on stderr and exit."""
    line = json.dumps({"error": {"code": code, "detail": detail}}) if as_json else f"windrow: {detail} ({code})"
    print(line, file=sys.stderr)
    raise typer.Exit(exit_code)


def log(*parts: object) -> None:
    """Print a line on stderr, which carries progress and notes."""
    print(*parts, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    import orjson

    sys.stdout.write(orjson.dumps(value).decode() + "\n")
    sys.stdout.flush()


def show_prediction(prediction: Prediction, as_json: bool) -> None:
    """Print a prediction: complete as JSON, with abbreviated vectors for people."""
    if as_json:
        from dataclasses import asdict

        return print_json(asdict(prediction))
    print(f"{prediction.id}  {prediction.model}  {prediction.status}")
    if prediction.error:
        print(f"  error    {prediction.error.get('detail')} ({prediction.error.get('code')})")
    if prediction.output is not None:
        print(f"  output   {abbreviate(prediction.output)}")
    if prediction.metrics:
        print(f"  metrics  {describe_metrics(prediction.metrics)}")


def show_stream(events: Iterable[StreamEvent], as_json: bool) -> None:
    """Print the first completion as it is generated, or the finished prediction as JSON; exit with 1 if it failed."""
    from windrow.client.event_stream import LAST

    for event in events:
        if event.type == "restart":
            log("\nwindrow: another worker generates the answer again from its start")
        elif event.type == "output" and event.data.get("index") == 0 and not as_json:
            print(event.text, end="", flush=True)
        elif event.type in LAST:
            if as_json and event.prediction is not None:
                show_prediction(event.prediction, as_json)
            elif not as_json:
                print()
            if event.type == "error":
                error = event.data.get("error") or {}
                fail(str(error.get("code")), str(error.get("detail")), FAILED, as_json)


def abbreviate(value: Any) -> str:
    """Return JSON for people, with long lists cut to their first items and their length."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)}: {abbreviate(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = [abbreviate(item) for item in value[:SHOWN_ITEMS]]
        more = [f"... {len(value)} in total"] if len(value) > SHOWN_ITEMS else []
        return "[" + ", ".join(shown + more) + "]"
    return f"{value:.4f}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Return one line such as ``queue 1.2 ms, compute 8.0 ms, batch_size 4``."""
    parts = []
    for name, value in metrics.items():
        number = str(value)
        if isinstance(value, float):
            number = f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
        parts.append(f"{name.removesuffix('_ms')} {number} ms" if name.endswith("_ms") else f"{name} {number}")
    return ", ".join(parts)
