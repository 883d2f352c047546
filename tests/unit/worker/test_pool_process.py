"""The assignment of devices to pool processes."""

from __future__ import annotations

from windrow.worker.pool.pool_process import is_spare, visible_devices


def test_processes_beyond_one_per_device_are_spare() -> None:
    two = {"CUDA_VISIBLE_DEVICES": "4, 6"}
    assert visible_devices(two) == ["4", "6"]
    assert [is_spare(slot, two) for slot in range(5)] == [False, False, True, True, True]


def test_no_process_is_spare_without_devices() -> None:
    assert not any(is_spare(slot, {"CUDA_VISIBLE_DEVICES": ""}) for slot in range(4))
