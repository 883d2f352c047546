"""Passes that raise are run again in halves, until the culprit stands alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Failed
from windrow.worker.batches.forward import failure_of, is_sticky

log = logging.getLogger(__name__)
T = TypeVar("T")


def run_halved(
    run: Callable[[Sequence[T]], tuple[Tensor, Tensor]], items: Sequence[T], failed: Callable[[int, Failed], None]
) -> tuple[Tensor, Tensor]:
    """``run`` of all ``items``, or of parts of them: (items, vocabulary) logits and (items,) tokens.

    An item whose pass raises although it is alone is told to ``failed`` by its index, and has the token -1.
    Raises what cannot be the fault of an item.
    """
    done: list[tuple[Tensor, Tensor] | None] = []
    _run(run, items, 0, done, failed)
    made = [one for one in done if one is not None]
    if len(done) == 1 and made:
        return made[0]
    if not made:
        return torch.full((len(items), 1), torch.nan), torch.full((len(items),), -1)
    like, token = made[0]
    parts = [
        (like.new_full((1, like.shape[1]), torch.nan), token.new_full((1,), -1)) if one is None else one for one in done
    ]
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
        log.warning("a pass over %d sequences raised %s", len(items), describe_exception(error))
        if len(items) == 1:
            failed(at, failure_of(error))
            done.append(None)
            return
    # Outside of the handler: what the pass had in memory is let go.
    middle = len(items) // 2
    _run(run, items[:middle], at, done, failed)
    _run(run, items[middle:], at + middle, done, failed)
