"""Both clients over a transport that answers without a network."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from windrow import AsyncClient, Client
from windrow.errors import PredictionFailed, PredictionPending, RequestRefused, ServerUnreachable

Handler = Callable[[httpx.Request], httpx.Response]
#: Calls a method of a client with a transport, and closes it.
Call = Callable[..., Any]

ENDED = {
    "id": "p1",
    "model": "minilm",
    "status": "succeeded",
    "input": "hay",
    "output": {"embedding": [0.5]},
    "error": None,
    "metrics": {"queue_ms": 1.5, "batch_size": 4},
    "created_at": "2025-01-01T00:00:00.000000Z",
    "urls": {"get": "http://testserver/v1/predictions/p1"},
}


KEY = "wr_the-key-that-nobody-reads-anywhere"


def call_blocking(handler: Handler, method: str, *args: Any, **options: Any) -> Any:
    with Client("http://testserver", transport=httpx.MockTransport(handler), api_key="key", timeout_s=5) as client:
        return getattr(client, method)(*args, **options)


def call_async(handler: Handler, method: str, *args: Any, **options: Any) -> Any:
    async def run() -> Any:
        transport = httpx.MockTransport(handler)
        async with AsyncClient("http://testserver", transport=transport, api_key="key", timeout_s=5) as client:
            return await getattr(client, method)(*args, **options)

    return asyncio.run(run())


@pytest.fixture(params=[call_blocking, call_async], ids=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Call:
    method: Call = request.param
    return method


class Recorder:
    """Answers every request the same, and keeps them."""

    def __init__(self, status: int, body: Any) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = (status, body)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self._answer[0], json=self._answer[1])

    @property
    def body(self) -> Any:
        return json.loads(self.requests[-1].content)


def test_predict_sends_the_request_and_returns_the_prediction(call: Call) -> None:
    server = Recorder(200, ENDED)
    done = call(
        server, "predict", "minilm", "hay", parameters={"truncate": True}, priority="high", deadline_ms=500, wait_s=9
    )
    request = server.requests[0]
    assert (request.method, request.url.path) == ("POST", "/v1/predictions")
    assert request.headers["Prefer"] == "wait=9"
    assert request.headers["Authorization"] == "Bearer key"
    assert request.headers["Content-Type"] == "application/json"
    assert server.body == {
        "model": "minilm",
        "input": "hay",
        "parameters": {"truncate": True},
        "priority": "high",
        "deadline_ms": 500,
    }
    assert done.result() == {"embedding": [0.5]}
    assert done.metrics["batch_size"] == 4


def test_submit_returns_the_queued_prediction(call: Call) -> None:
    queued = call(Recorder(202, {**ENDED, "status": "queued", "output": None}), "submit", "minilm", "hay")
    assert not queued.is_ended
    with pytest.raises(PredictionPending):
        queued.result()


def test_submit_many_keeps_the_order(call: Call) -> None:
    server = Recorder(202, {"predictions": [{**ENDED, "id": "a"}, {**ENDED, "id": "b"}]})
    assert [one.id for one in call(server, "submit_many", "minilm", ("x", "y"))] == ["a", "b"]
    assert server.requests[0].url.path == "/v1/predictions:batch"
    assert server.body["inputs"] == ["x", "y"]


def test_get_cancel_wait_and_models_use_the_right_paths(call: Call) -> None:
    server = Recorder(200, {**ENDED, "data": [{"id": "minilm"}]})
    call(server, "get", "p1")
    call(server, "get", "p1", wait_s=3)
    call(server, "cancel", "p1")
    call(server, "wait", "p1", timeout_s=4)
    assert call(server, "models") == [{"id": "minilm"}]
    assert [(request.method, request.url.raw_path.decode()) for request in server.requests] == [
        ("GET", "/v1/predictions/p1"),
        ("GET", "/v1/predictions/p1?wait=3"),
        ("POST", "/v1/predictions/p1/cancel"),
        ("GET", "/v1/predictions/p1?wait=4"),
        ("GET", "/v1/models"),
    ]


def test_a_failed_prediction_raises_its_code_and_detail(call: Call) -> None:
    failed = {**ENDED, "status": "failed", "output": None, "error": {"code": "model_failed", "detail": "it raised"}}
    prediction = call(Recorder(200, failed), "get", "p1")
    with pytest.raises(PredictionFailed, match="it raised") as error:
        prediction.result()
    assert error.value.code == "model_failed"


def test_a_problem_response_raises_an_exception(call: Call) -> None:
    body = {"type": "about:blank", "title": "t", "status": 422, "detail": "input: is missing", "code": "invalid_input"}
    with pytest.raises(RequestRefused) as error:
        call(Recorder(422, body), "predict", "minilm", "")
    assert (error.value.status, error.value.code, error.value.detail) == (422, "invalid_input", "input: is missing")


def test_a_refused_connection_names_the_server(call: Call) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused", request=request)

    with pytest.raises(ServerUnreachable, match=r"http://testserver.*Connection refused"):
        call(refuse, "submit_many", "minilm", ["a"])


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://host:port"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_invalid_base_url_is_refused(kind: type, url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        kind(url)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_api_key_defaults_to_the_environment_variable(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(**options: Any) -> str | None:
        header: str | None = kind("http://testserver", **options)._http.headers.get("Authorization")
        return header

    monkeypatch.setenv("WINDROW_API_KEY", KEY)
    assert sent() == f"Bearer {KEY}"
    assert sent(api_key="another") == "Bearer another"
    monkeypatch.setenv("WINDROW_API_KEY", "")
    assert sent() is None
    monkeypatch.delenv("WINDROW_API_KEY")
    assert sent() is None


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} x", f"{KEY}\u00e9", ""])
def test_an_invalid_api_key_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError, match="WINDROW_API_KEY") as error:
        Client("http://testserver", api_key=key)
    assert KEY not in str(error.value)


def test_an_api_key_appears_in_no_error(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused", request=request)

    client = Client("http://user:hush@testserver", api_key=KEY, transport=httpx.MockTransport(refuse))
    with pytest.raises(ServerUnreachable) as error:
        client.submit_many("minilm", ["a"])
    for text in (str(error.value), repr(error.value), repr(client), repr(vars(client))):
        assert KEY not in text
        assert "hush" not in text
    with pytest.raises(ValueError, match="base_url") as bad:
        Client("http://user:hush@testserver:port")
    assert "hush" not in str(bad.value)
