import math
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.encoder import run as encoder
from benchmarks.encoder.run import EmptiedQueue, Sizes, summarise

SIZES = Sizes(1000, 10, 100, 1, 58.0, 1, 2, 2, 10.0, 1.0)
#: 100 texts per second alone, 95 through the queue with one device and 190 with two.
BOUND_PER_S = 100.0
RATES = {1: 95.0, 2: 190.0}


def make_report() -> dict[str, Any]:
    emptied, ended, from_s = [], [], 10.0
    for devices in (1, 2):
        items = 1000 * devices
        to_s = from_s + items / RATES[devices]
        emptied.append(EmptiedQueue(devices, items, from_s, to_s, 1.0))
        ended += [(from_s + 10 * (number + 1) / RATES[devices], 10) for number in range(items // 10)]
        from_s = to_s + 1
    process = {
        "bound_per_s": BOUND_PER_S, "bound_after_per_s": BOUND_PER_S, "ended": ended, "tokens": 102, "load_s": 1.0,
        "asked_tokens": 100, "lone_call_ms": 1.0, "relative_error": None,
    }  # fmt: skip
    client: Any = SimpleNamespace(emptied=emptied, lone_ms=2.5, open_loop_ms=[1.0, 2.0])
    return summarise([process], client, [0.9, None], SIZES)


def test_one_device_is_compared_with_the_bound_and_several_with_one() -> None:
    figures = {figure["name"]: figure["value"] for figure in make_report()["figures"]}
    assert figures["ratio"] == pytest.approx(0.95, rel=0.01)
    assert figures["against one"] == pytest.approx(2.0, rel=0.01)
    assert figures["tokens computed over tokens asked"] == pytest.approx(1.02)
    assert figures["difference"] == pytest.approx(1.5)
    assert math.isclose(figures["device busy while the queue was emptied"], 0.9)


def test_the_report_can_be_written_as_json() -> None:
    assert set(orjson.loads(orjson.dumps(make_report()))["rates_per_s"]) == {"1", "2"}


def test_missing_devices_are_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "visible_devices", lambda: ["0"])
    done = CliRunner().invoke(app, ["encoder", "--devices", "2"])
    assert done.exit_code == 1
    assert "needs 2 CUDA device(s), and this machine has 1" in done.output


def test_an_unwritable_report_file_is_refused_before_measuring() -> None:
    done = CliRunner().invoke(app, ["encoder", "--json", "/nowhere/report.json"])
    assert done.exit_code == 2
    assert "/nowhere/report.json" in done.output
