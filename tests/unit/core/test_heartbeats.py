"""What a heartbeat says of a worker, and when nobody serves a model."""

from __future__ import annotations

import pytest

from windrow.scheduler.core.heartbeats import busy_s, describe_trouble


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (b'{"busy_s": 12.5, "device": "cpu"}', 12.5),
        (b'{"busy_s": 3, "of_a_later_version": [1]}', 3.0),
        (b'{"device": "cpu"}', 0.0),
        (b'{"busy_s": null}', 0.0),
        (b"[]", 0.0),
        (b"", 0.0),
    ],
)
def test_a_heartbeat_of_any_version_is_understood(info: bytes, expected: float) -> None:
    assert busy_s(info) == expected


def trouble(**busy: float) -> str | None:
    infos = {f"worker@{host}/0": b'{"busy_s": %g}' % seconds for host, seconds in busy.items()}
    return describe_trouble("minilm", infos, within_s=15, stall_s=300)


def test_without_a_worker_the_model_is_named() -> None:
    assert trouble() == "no worker has been heard of in the last 15 s for minilm"


def test_a_model_that_could_not_be_loaded_is_named_with_each_reason_once() -> None:
    failures = {"worker@a/0": "no safetensors", "worker@a/1": "no safetensors", "worker@b/0": "out of memory"}
    said = describe_trouble("minilm", {}, within_s=15, stall_s=300, failures=failures)
    assert said == ("model 'minilm' could not be loaded: worker@a/0: no safetensors; worker@b/0: out of memory")
    assert describe_trouble("minilm", {"worker@c/0": b"{}"}, within_s=15, stall_s=300, failures=failures) is None


def test_one_worker_that_goes_on_is_enough() -> None:
    assert trouble(a=0.0) is None
    assert trouble(a=300.0) is None
    assert trouble(a=301.0, b=2.0) is None


def test_where_all_have_stalled_each_is_named() -> None:
    assert trouble(a=301.0, b=400.0) == (
        "every worker of minilm has stalled: worker@a/0 has been at one pass for 301 s, "
        "worker@b/0 has been at one pass for 400 s"
    )
