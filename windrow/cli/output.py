"""What the commands print, and the exit code of each error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from windrow.client.event_stream import StreamEvent
    from windrow.client.prediction import Prediction

FAILED, USAGE, UNREACHABLE = 1, 2, 3
#: Numbers of a vector that are shown to people.
SHOWN_NUMBERS = 4


@contextmanager
def errors_reported(as_json: bool) -> Iterator[None]:
    """Turn the errors that a user can cause into one line on stderr and an exit code."""
    from windrow.errors import ClientError, ServerUnreachable, WindrowError

    try:
        yield
    except ClientError as error:
        fail(error.code, error.detail, UNREACHABLE if isinstance(error, ServerUnreachable) else FAILED, as_json)
    except WindrowError as error:
        fail(error.code, error.detail, USAGE if error.code == "invalid_setting" else FAILED, as_json)
    except ValueError as error:
        fail("usage", str(error), USAGE, as_json)


def fail(code: str, detail: str, exit_code: int, as_json: bool) -> None:
    """Say what went wrong on stderr and leave."""
    line = json.dumps({"error": {"code": code, "detail": detail}}) if as_json else f"windrow: {detail} ({code})"
    print(line, file=sys.stderr)
    raise typer.Exit(exit_code)


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    import orjson

    sys.stdout.write(orjson.dumps(value).decode() + "\n")
    sys.stdout.flush()


def show_prediction(prediction: Prediction, as_json: bool) -> None:
    """Print a prediction: whole as JSON, vectors abbreviated for people."""
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
    """Print the text of the first answer as it comes, or the whole prediction as JSON; 1 where it did not succeed."""
    from windrow.client.event_stream import LAST

    for event in events:
        if event.type == "restart":
            print("\nwindrow: another worker begins the answer anew", file=sys.stderr)
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
    """JSON for people: long lists of numbers cut to the first few and their count."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)}: {abbreviate(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = [abbreviate(item) for item in value[:SHOWN_NUMBERS]]
        more = [f"... {len(value)} in all"] if len(value) > SHOWN_NUMBERS else []
        return "[" + ", ".join(shown + more) + "]"
    return f"{value:.4f}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """One line: ``queue 1.2 ms, compute 8.0 ms, batch_size 4``."""
    parts = []
    for name, value in metrics.items():
        number = f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else f"{value:.0f}" \
            if isinstance(value, float) else str(value)  # fmt: skip
        parts.append(f"{name.removesuffix('_ms')} {number} ms" if name.endswith("_ms") else f"{name} {number}")
    return ", ".join(parts)
