import math
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.encoder import run as encoder
from benchmarks.encoder.run import Emptied, Sizes, summarise

SIZES = Sizes(1000, 10, 100, 1, 58.0, 1, 2, 2, 10.0, 1.0)
#: Alone 100 texts a second, 95 through the queue of one device, 190 of two.
BOUND_PER_S = 100.0
RATES = {1: 95.0, 2: 190.0}


def a_report() -> dict[str, Any]:
    emptied, ended, from_s = [], [], 10.0
    for devices in (1, 2):
        items = 1000 * devices
        to_s = from_s + items / RATES[devices]
        emptied.append(Emptied(devices, items, from_s, to_s, 1.0))
        ended += [(from_s + 10 * (number + 1) / RATES[devices], 10) for number in range(items // 10)]
        from_s = to_s + 1
    process = {
        "bound_per_s": BOUND_PER_S, "bound_after_per_s": BOUND_PER_S, "ended": ended, "tokens": 102, "load_s": 1.0,
        "asked_tokens": 100, "lone_call_ms": 1.0, "relative_error": None,
    }  # fmt: skip
    asking: Any = SimpleNamespace(emptied=emptied, lone_ms=2.5, late_ms=[1.0, 2.0])
    return summarise([process], asking, [0.9, None], SIZES)


def test_one_device_is_held_against_the_bound_and_several_against_one() -> None:
    figures = {figure["name"]: figure["value"] for figure in a_report()["figures"]}
    assert figures["ratio"] == pytest.approx(0.95, rel=0.01)
    assert figures["against one"] == pytest.approx(2.0, rel=0.01)
    assert figures["tokens computed over tokens asked"] == pytest.approx(1.02)
    assert figures["difference"] == pytest.approx(1.5)
    assert math.isclose(figures["device busy while the queue was emptied"], 0.9)


def test_the_report_can_be_written_as_json() -> None:
    assert set(orjson.loads(orjson.dumps(a_report()))["rates_per_s"]) == {"1", "2"}


def test_devices_that_are_not_there_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "visible_devices", lambda: ["0"])
    done = CliRunner().invoke(app, ["encoder", "--devices", "2"])
    assert done.exit_code == 1
    assert "needs 2 CUDA device(s), and this machine has 1" in done.output


def test_a_report_that_could_not_be_written_is_refused_before_anything_is_measured() -> None:
    done = CliRunner().invoke(app, ["encoder", "--json", "/nowhere/report.json"])
    assert done.exit_code == 2
    assert "/nowhere/report.json" in done.output
