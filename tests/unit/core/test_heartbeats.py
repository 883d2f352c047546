"""Heartbeats: their encoding, and the reasons why a model is not served."""

from __future__ import annotations

import pytest

from windrow.scheduler.core.heartbeats import Heartbeat, decode_heartbeat, describe_trouble


def test_an_encoded_heartbeat_decodes_to_the_same_heartbeat() -> None:
    heartbeat = Heartbeat(model="minilm", device="cpu", busy_s=1.5, held=3, drained=True, wait_ms=2.0)
    assert decode_heartbeat(heartbeat.encode()) == heartbeat


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (b'{"busy_s": 12.5, "device": "cpu"}', Heartbeat(busy_s=12.5, device="cpu")),
        (b'{"busy_s": 3, "field_of_another_version": [1]}', Heartbeat(busy_s=3)),
        (b'{"busy_s": null}', Heartbeat()),
        (b"{}", Heartbeat()),
    ],
)
def test_a_heartbeat_of_another_version_is_decoded(info: bytes, expected: Heartbeat) -> None:
    assert decode_heartbeat(info) == expected


@pytest.mark.parametrize("info", [b"", b"[]", b"not JSON", b'{"busy_s": "long"}', b'{"device": 5}'])
def test_an_invalid_heartbeat_decodes_to_none(info: bytes) -> None:
    assert decode_heartbeat(info) is None


def trouble(**busy_s: float) -> str | None:
    heartbeats = {f"worker@{host}/0": Heartbeat(busy_s=seconds) for host, seconds in busy_s.items()}
    return describe_trouble("minilm", heartbeats, within_s=15, stall_s=300)


def test_the_trouble_of_a_model_without_workers_names_the_model() -> None:
    assert trouble() == "no worker has sent a heartbeat for minilm in the last 15 s"


def test_each_reason_for_a_failed_load_is_given_once() -> None:
    failures = {"worker@a/0": "no safetensors", "worker@a/1": "no safetensors", "worker@b/0": "out of memory"}
    reason = describe_trouble("minilm", {}, within_s=15, stall_s=300, failures=failures)
    assert reason == "model 'minilm' could not be loaded: worker@a/0: no safetensors; worker@b/0: out of memory"
    served = {"worker@c/0": Heartbeat()}
    assert describe_trouble("minilm", served, within_s=15, stall_s=300, failures=failures) is None


def test_one_worker_that_makes_progress_is_enough() -> None:
    assert trouble(a=0.0) is None
    assert trouble(a=300.0) is None
    assert trouble(a=301.0, b=2.0) is None


def test_all_stalled_workers_are_named() -> None:
    assert trouble(a=301.0, b=400.0) == (
        "every worker of minilm has stalled: worker@a/0 has spent 301 s on one batch, "
        "worker@b/0 has spent 400 s on one batch"
    )


def test_a_drained_worker_does_not_serve_the_model() -> None:
    drained, stalled = Heartbeat(drained=True), Heartbeat(busy_s=400)
    assert describe_trouble("minilm", {"a": drained, "b": Heartbeat()}, within_s=15, stall_s=300) is None
    only_drained = describe_trouble("minilm", {"a": drained}, within_s=15, stall_s=300)
    assert only_drained is not None
    assert only_drained.startswith("every worker of minilm is drained")
    both = describe_trouble("minilm", {"a": drained, "b": stalled}, within_s=15, stall_s=300)
    assert both == "every worker of minilm has stalled: b has spent 400 s on one batch; drained: a"
