"""The client commands against a small HTTP server with Windrow's REST interface."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from windrow.cli.app import app

EMBEDDING = [index / 1000 for index in range(384)]


class Handler(BaseHTTPRequestHandler):
    """``minilm`` succeeds, ``broken`` fails, ``slow`` never finishes, and all other models are unknown."""

    requests: list[tuple[str, dict[str, Any]]]

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            models = [{"id": "minilm", "object": "model", "task": "embed", "failures": None}]
            models += [
                {"id": "broken", "object": "model", "task": "embed", "failures": {"worker@a/0": "no safetensors"}}
            ]
            return self._answer(200, {"object": "list", "data": models})
        self._predict(self.path.split("/")[3].split("?")[0])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if body:
            self.requests.append((self.path, json.loads(body)))
            if self.headers["Accept"] == "text/event-stream":
                return self._stream(json.loads(body)["model"])
            return self._predict(json.loads(body)["model"])
        self._predict("minilm", "canceled")

    def _predict(self, model: str, status: str = "succeeded") -> None:
        prediction: dict[str, Any] = {"id": model, "model": model, "status": status, "input": "hay"}
        if model == "minilm":
            prediction |= {"output": {"embedding": EMBEDDING}, "metrics": {"queue_ms": 1.25, "batch_size": 4}}
        elif model == "broken":
            prediction |= {"status": "failed", "error": {"code": "model_failed", "detail": "it raised"}}
        elif model == "slow":
            prediction |= {"status": "processing"}
        else:
            problem = {"title": "t", "status": 404, "detail": f"no {model}", "code": "unknown_model"}
            return self._answer(404, problem)
        self._answer(200, prediction)

    def _stream(self, model: str) -> None:
        ended: dict[str, Any] = {"id": "p1", "model": model, "status": "succeeded", "output": {"text": "Make hay"}}
        if model == "broken":
            ended |= {"status": "failed", "output": None, "error": {"code": "model_failed", "detail": "it raised"}}
        pieces = [("start", {"id": "p1", "attempt": 1}), ("output", {"index": 0, "text": "Mow"}), ("restart", {})]
        pieces += [("output", {"index": 0, "text": text}) for text in ("Make", " hay")]
        pieces += [("output", {"index": 1, "text": "Rake"}), ("error" if model == "broken" else "completed", ended)]
        content = "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in pieces).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Server:
    def __init__(self) -> None:
        self.handler: type[Handler] = type("Recording", (Handler,), {"requests": []})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def run(self, *arguments: str, **options: Any) -> Any:
        return CliRunner(env={"WINDROW_URL": self.url}).invoke(app, list(arguments), **options)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def test_predict_abbreviates_a_vector_for_people(server: Server) -> None:
    done = server.run("predict", "minilm", "hay")
    assert done.exit_code == 0, done.output
    assert "0.0030, ... 384 in total" in done.stdout
    assert "queue 1.25 ms, batch_size 4" in done.stdout


def test_predict_prints_the_whole_vector_as_json(server: Server) -> None:
    done = server.run("predict", "minilm", "hay", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["output"]["embedding"] == EMBEDDING


def test_predict_reads_stdin_and_sends_its_options(server: Server) -> None:
    options = ("-p", "truncate=true", "-p", "note=x y", "--priority", "high", "--deadline-ms", "500")
    done = server.run("predict", "minilm", "-", *options, input="from stdin")
    assert done.exit_code == 0, done.output
    assert server.handler.requests == [
        (
            "/v1/predictions",
            {
                "model": "minilm",
                "input": "from stdin",
                "priority": "high",
                "parameters": {"truncate": True, "note": "x y"},
                "deadline_ms": 500.0,
            },
        )
    ]


def test_json_input_sends_an_object(server: Server) -> None:
    pairs = {"query": "hay", "documents": ["dry", "wet"]}
    done = server.run("predict", "minilm", json.dumps(pairs), "--json-input")
    assert done.exit_code == 0, done.output
    assert server.run("predict", "minilm", "{}").exit_code == 0
    assert [body["input"] for _, body in server.handler.requests] == [pairs, "{}"]


def test_a_failed_prediction_exits_with_1(server: Server) -> None:
    done = server.run("predict", "broken", "hay")
    assert done.exit_code == 1
    assert "it raised (model_failed)" in done.stdout


def test_a_stream_is_printed_as_it_arrives_and_reports_a_restart(server: Server) -> None:
    done = server.run("predict", "words", "hay", "--stream")
    assert done.exit_code == 0, done.output
    assert done.stdout == "MowMake hay\n"
    assert "another worker generates the answer again" in done.stderr
    as_json = server.run("predict", "words", "hay", "--stream", "--json")
    assert json.loads(as_json.stdout)["output"] == {"text": "Make hay"}


def test_a_stream_that_fails_exits_with_1_and_the_reason(server: Server) -> None:
    done = server.run("predict", "broken", "hay", "--stream")
    assert done.exit_code == 1
    assert "it raised (model_failed)" in done.stderr


def test_an_unfinished_prediction_is_reported_with_its_id(server: Server) -> None:
    done = server.run("predict", "slow", "hay", "--wait", "0.01")
    assert done.exit_code == 1
    assert "windrow get slow --wait 60" in done.stderr


def test_predict_with_wait_0_only_queues(server: Server) -> None:
    done = server.run("predict", "slow", "hay", "--wait", "0", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["id"] == "slow"


def test_get_cancel_and_models_print_their_results(server: Server) -> None:
    assert server.run("get", "minilm").exit_code == 0
    assert server.run("get", "broken").exit_code == 1
    assert "canceled" in server.run("cancel", "minilm").stdout
    listed = ["minilm  task=embed", "broken  task=embed", "    could not be loaded by worker@a/0: no safetensors"]
    assert server.run("models").stdout.splitlines() == listed
    assert json.loads(server.run("models", "--json").stdout)[0]["id"] == "minilm"


def test_a_refusal_exits_with_1_and_its_code(server: Server) -> None:
    done = server.run("predict", "nothing", "hay")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "windrow: no nothing (unknown_model)\n"
    as_json = server.run("predict", "nothing", "hay", "--json")
    assert json.loads(as_json.stderr)["error"] == {"code": "unknown_model", "detail": "no nothing"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "minilm"),
        ("predict", "minilm", "hay", "--priority", "urgent"),
        ("predict", "minilm", "hay", "-p", "truncate"),
        ("predict", "minilm", "{hay", "--json-input"),
        ("get", "id", "--wait", "-1"),
        ("models", "--url", "localhost"),
        ("nonsense",),
    ],
)
def test_an_invalid_command_line_exits_with_2(server: Server, arguments: tuple[str, ...]) -> None:
    done = server.run(*arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output


def test_an_unreachable_server_exits_with_3() -> None:
    with socket.socket() as unused:  # bound, and not listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = CliRunner().invoke(app, ["models", "--url", url])
    assert done.exit_code == 3
    assert f"no server answers at {url}" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("module", ["windrow", "windrow.cli.app", "windrow.stack.serve", "windrow.demo.run"])
def test_torch_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; sys.exit(int(any(name in sys.modules for name in ('torch', 'celery', 'flask'))))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
