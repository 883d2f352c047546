"""Bisection of a failing forward pass: it runs again in halves until the sequence that makes it raise is alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Failed
from windrow.worker.engines.failures import failure_of, is_sticky

log = logging.getLogger(__name__)
T = TypeVar("T")


def run_bisected(
    run: Callable[[Sequence[T]], tuple[Tensor, Tensor]], items: Sequence[T], failed: Callable[[int, Failed], None]
) -> tuple[Tensor, Tensor]:
    """Call ``run`` with all ``items``, or with parts of them; return (items, vocabulary) logits and (items,) tokens.

    Calls ``failed`` with the index and error of each item that fails alone; its token is -1. Raises errors that no
    single item can cause, such as a lost device.
    """
    done: list[tuple[Tensor, Tensor] | None] = []
    _run(run, items, 0, done, failed)
    succeeded = [part for part in done if part is not None]
    if len(done) == 1 and succeeded:
        return succeeded[0]
    if not succeeded:
        return torch.full((len(items), 1), torch.nan), torch.full((len(items),), -1)
    like, token = succeeded[0]
    failure = like.new_full((1, like.shape[1]), torch.nan), token.new_full((1,), -1)
    parts = [failure if part is None else part for part in done]
    return torch.cat([logits for logits, _ in parts]), torch.cat([tokens for _, tokens in parts])


def _run(
    run: Callable[[Sequence[T]], tuple[Tensor, Tensor]], items: Sequence[T], at: int,
    done: list[tuple[Tensor, Tensor] | None], failed: Callable[[int, Failed], None],
) -> None:  # fmt: skip
    try:
        done.append(run(items))
        return
    except Exception as error:
        if is_sticky(error):
            raise
        log.warning("a forward pass over %d sequences raised %s", len(items), describe_exception(error))
        if len(items) == 1:
            failed(at, failure_of(error))
            done.append(None)
            return
    # Outside of the handler, so that the memory of the failed forward pass is free.
    middle = len(items) // 2
    _run(run, items[:middle], at, done, failed)
    _run(run, items[middle:], at + middle, done, failed)
