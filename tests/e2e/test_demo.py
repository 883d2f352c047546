"""``windrow demo`` as a real process."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.serving import clean_environ, is_alive
from windrow import Client
from windrow.scheduler.models.builtin import builtin_cache
from windrow.stack.embedded_redis import free_port
from windrow.worker.tiny_llama import train

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LIMIT_S = 240.0
STRATEGIES = ["none", "static", "dynamic", "bucket", "packed"]


class Demo:
    """A running demonstration, and every process that it has started."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self.port = free_port()
        environ = {"XDG_CACHE_HOME": str(folder.parent / "cache"), **environ}
        self.output = (folder / "output.txt").open("w+")
        self.errors = (folder / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "windrow", "demo", *arguments],
            cwd=folder,
            env=clean_environ(PORT=str(self.port), TMPDIR=str(folder), **environ),
            stdout=self.output,
            stderr=self.errors,
        )
        self.descendants: set[psutil.Process] = set()

    def text(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def follow_until(self, word: str | None = None) -> None:
        """Wait for the end, or for ``word`` in the output, and record every process meanwhile."""
        end_s = time.monotonic() + LIMIT_S
        while self.process.poll() is None and not (word is not None and word in self.text()):
            assert time.monotonic() < end_s, self.text()
            try:
                self.descendants |= set(psutil.Process(self.process.pid).children(recursive=True))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.2)

    def left(self) -> list[psutil.Process]:
        return [process for process in self.descendants if is_alive(process)]

    def close(self) -> None:
        for process in self.left():
            process.kill()
        self.process.kill()
        self.process.wait()
        self.output.close()
        self.errors.close()


@pytest.fixture
def demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Demo]]:
    # One training step is enough: these tests do not look at the generated text.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))
    if not builtin_cache("tiny-llama").is_dir():
        train(builtin_cache("tiny-llama"), steps=1)
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.close()


def test_demo_reports_its_results_and_leaves_no_process_behind(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path, "--json", "--requests", "40"))
    demo.follow_until()
    demo.errors.seek(0)
    assert demo.process.wait() == 0, demo.errors.read()
    report = json.loads(demo.text())
    assert report["ok"] is True
    assert len(report["arrivals"]) == 10
    assert sum(len(batch["places"]) for batch in report["batches"]) == 10
    assert max(batch["size"] for batch in report["batches"]) <= 4
    assert [row["strategy"] for row in report["strategies"]] == STRATEGIES
    assert all(row["requests"] == 40 and row["failed"] == 0 for row in report["strategies"])
    none, *batched = report["strategies"]
    assert none["batches"] == 40
    assert all(row["batches"] < 40 for row in batched)
    assert report["strategies"][-1]["padding_ratio"] == 0
    assert len(report["answers"]) == 6
    assert all(answer["tokens"] > 0 and answer["problem"] is None for answer in report["answers"])
    assert demo.descendants
    assert demo.left() == []
    assert list(tmp_path.glob("windrow-demo-*")) == []


def test_keep_serves_until_interrupted(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path, "--keep", "--requests", "5", COLUMNS="50"))
    demo.follow_until("until Ctrl-C. Try:")
    assert demo.process.poll() is None, demo.text()
    assert f"curl -s http://127.0.0.1:{demo.port}/v1/predictions" in demo.text()
    with Client(f"http://127.0.0.1:{demo.port}") as client:
        assert client.predict("minilm", "hay").status == "succeeded"
    demo.process.send_signal(signal.SIGINT)
    demo.follow_until()
    assert demo.process.wait() == 0, demo.text()
    assert demo.left() == []


def test_a_demo_stopped_halfway_exits_with_130_and_leaves_no_process_behind(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path, "--requests", "20000"))
    demo.follow_until("2. 20000 texts")
    demo.process.send_signal(signal.SIGTERM)
    demo.follow_until()
    assert demo.process.wait() == 130
    demo.errors.seek(0)
    assert "Traceback" not in demo.errors.read()
    assert demo.left() == []
