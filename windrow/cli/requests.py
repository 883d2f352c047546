"""``windrow predict | get | cancel | models``: the client commands."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.output import FAILED, Json, errors_reported, fail, print_json, show_prediction, show_stream

if TYPE_CHECKING:
    from windrow.client.sync_client import Client

Url = Annotated[
    str, typer.Option("--url", envvar="WINDROW_URL", help="URL of the server.", show_default="http://127.0.0.1:8000")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Time limit of a call with its retries, in seconds.")
]
NO_URL = ""


def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    text: Annotated[str, typer.Argument(help="Input; '-' reads it from stdin.")],
    json_input: Annotated[
        bool, typer.Option("--json-input", help="Parse the input as JSON, for tasks that take an object.")
    ] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="NAME=VALUE, with a value in JSON or plain text; repeatable."),
    ] = None,
    priority: Annotated[str, typer.Option(help="Priority: high, normal or low.")] = "normal",
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Expire the request if it has not started within this time.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Time to wait for the result, in seconds; 0 only queues the request.")
    ] = 60.0,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Return the same prediction for the same key and input.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text while it is generated.")] = False,
    url: Url = NO_URL,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Send one request and print its prediction."""
    with errors_reported(as_json):
        options: dict[str, Any] = {
            "parameters": read_parameters(parameter or []),
            "priority": read_priority(priority),
            "deadline_ms": deadline_ms,
            "idempotency_key": idempotency_key,
        }
        value = read_input(read_stdin() if text == "-" else text, json_input)
        with connect(url, timeout) as client:
            if stream:
                return show_stream(client.stream(model, value, **options), as_json)
            if wait == 0:
                return show_prediction(client.submit(model, value, **options), as_json)
            prediction = client.predict(model, value, wait_s=wait, **options)
        show_prediction(prediction, as_json)
        if not prediction.is_ended:
            detail = f"not finished after {wait:g} s; ask again with: windrow get {prediction.id} --wait 60"
            fail("pending", detail, FAILED, as_json)
        if prediction.status != "succeeded":
            raise typer.Exit(FAILED)


def get(
    id: Annotated[str, typer.Argument(help="Id of the prediction.")],
    wait: Annotated[float, typer.Option(min=0, help="Time to wait for the result, in seconds.")] = 0.0,
    url: Url = NO_URL,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Print a prediction; exit with 1 if it failed."""
    with errors_reported(as_json):
        with connect(url, timeout) as client:
            prediction = client.wait(id, wait) if wait else client.get(id)
        show_prediction(prediction, as_json)
        if prediction.is_ended and prediction.status != "succeeded":
            raise typer.Exit(FAILED)


def cancel(
    id: Annotated[str, typer.Argument(help="Id of the prediction.")],
    url: Url = NO_URL,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Cancel a prediction that has not finished, and print it."""
    with errors_reported(as_json), connect(url, timeout) as client:
        show_prediction(client.cancel(id), as_json)


def models(url: Url = NO_URL, timeout: Timeout = 60.0, as_json: Json = False) -> None:
    """List the models of the server."""
    with errors_reported(as_json):
        with connect(url, timeout) as client:
            listed = client.models()
        if as_json:
            return print_json(listed)
        for model in listed:
            more = "  ".join(
                f"{name}={value}"
                for name, value in model.items()
                if name not in ("id", "object", "created", "owned_by", "failures") and value is not None
            )
            print(f"{model.get('id')}  {more}".rstrip())
            for worker, reason in (model.get("failures") or {}).items():
                print(f"    could not be loaded by {worker}: {reason}")


def read_stdin() -> str:
    """Return all of stdin; end the command if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"stdin is not UTF-8 (at byte {error.start})") from None


def read_input(text: str, is_json: bool) -> Any:
    """Return the input to send. Raises `ValueError` if it should be JSON and is not."""
    if not is_json:
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--json-input: the input is not JSON: {error}") from None


def connect(url: str, timeout_s: float) -> Client:
    """Return a client of ``url``, or of the default server."""
    from windrow.client.sync_client import Client
    from windrow.client.transport import DEFAULT_URL

    return Client(url or DEFAULT_URL, timeout_s=timeout_s)


def read_priority(text: str) -> str:
    """Validate a priority. Raises `ValueError`."""
    if text not in ("high", "normal", "low"):
        raise ValueError(f"--priority: takes high, normal or low (got {text!r})")
    return text


def read_parameters(pairs: list[str]) -> dict[str, Any] | None:
    """Parse ``NAME=VALUE`` pairs; a value that is not JSON is text. Raises `ValueError` for a pair without ``=``."""
    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"--parameter: takes NAME=VALUE, for example truncate=true (got {pair!r})")
        try:
            parameters[name] = json.loads(text)
        except json.JSONDecodeError:
            parameters[name] = text
    return parameters or None
