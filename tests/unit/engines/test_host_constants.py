"""Host constants are copied to the device once; here the device is torch's ``meta``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from windrow.worker.engines.device.host_constants import TRANSFERS, HostConstants, keeping_constants

INPUT = torch.zeros(4, device="meta")


class Transfers(TorchDispatchMode):
    """Records the length of each tensor that is copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in TRANSFERS and args[0].device.type == "cpu":
            self.lengths.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def positions(length: int) -> Tensor:
    return torch.arange(length).to(INPUT.device)


def test_a_second_run_copies_nothing() -> None:
    constants = HostConstants()
    runs = []
    for _ in range(2):
        with torch.inference_mode(), Transfers() as seen, constants:
            made = [positions(4), torch.tensor(3).type_as(INPUT), positions(5)]
        assert [(tensor.device.type, tensor.dtype, tensor.numel()) for tensor in made] == [
            ("meta", torch.int64, 4), ("meta", torch.float32, 1), ("meta", torch.int64, 5),
        ]  # fmt: skip
        runs.append(seen.lengths)
    assert runs == [[4, 1, 5], []]


def test_a_different_tensor_is_copied_again() -> None:
    constants = HostConstants()
    with constants:
        positions(4), positions(5)
    with Transfers() as seen, constants:
        made = [positions(4), positions(6), positions(5)]
    assert [len(tensor) for tensor in made] == [4, 6, 5]
    assert seen.lengths == [6, 5]


def test_operations_on_one_device_are_unchanged() -> None:
    with HostConstants() as constants, torch.inference_mode():
        assert torch.arange(3).to(torch.float32).sum().item() == 3
        assert (INPUT + 1).device.type == "meta"
    with constants:
        values = torch.arange(3).to(torch.float32)
        values += 1
        assert values.sum().item() == 6
    with constants:
        assert torch.arange(3).to(torch.float32).sum().item() == 3


def test_each_input_shape_has_its_own_constants() -> None:
    run = keeping_constants(lambda ids, mask: positions(len(ids)))
    longer = torch.zeros(6, device="meta")
    with Transfers() as seen:
        lengths = [len(run(ids, ids)) for ids in (INPUT, longer, INPUT, longer)]
    assert lengths == [4, 6, 4, 6]
    assert seen.lengths == [4, 6]
