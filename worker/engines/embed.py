"""Task ``embed``: one vector a text, pooled as the model's sentence-transformers files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scheduler.core.errors import ModelUnusable
from worker.engines.attention import PackedLayout
from worker.engines.encoder import EncoderEngine

#: Key of 1_Pooling/config.json -> mode, in the order in which sentence-transformers concatenates them.
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class EmbedEngine(EncoderEngine):
    """Output: ``{"embedding": (dimensions,) float32}``."""

    task = "embed"
    auto_class = "AutoModel"

    def _set_up(self) -> None:
        self._modes, self._normalize = read_pooling(self._folder)

    def _padded_rows(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        hidden = self._weights.module(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._finish([PADDED_POOLING[mode](hidden.float(), mask) for mode in self._modes])

    def _packed_rows(self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout) -> Tensor:
        hidden = self._weights.module(input_ids=input_ids, position_ids=position_ids, packed=layout).last_hidden_state
        return self._finish([PACKED_POOLING[mode](hidden[0].float(), layout) for mode in self._modes])

    def _finish(self, pooled: list[Tensor]) -> Tensor:
        rows = torch.cat(pooled, dim=1)
        return F.normalize(rows, dim=1) if self._normalize else rows

    def _outputs(self, rows: NDArray[np.float32]) -> list[dict[str, Any]]:
        return [{"embedding": row} for row in rows]


def read_pooling(folder: Path) -> tuple[list[str], bool]:
    """Pooling modes and whether to normalise, from ``modules.json`` and the pooling folder it names.

    Without ``modules.json``: the mean, not normalised, which is what sentence-transformers does with such a folder.
    Raises `ModelUnusable` for a module or mode that is not computed here: a vector without it would be wrong.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return ["mean"], False
    modes, normalize = ["mean"], False
    for module in json.loads(file.read_text(encoding="utf-8")):
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Pooling":
            modes = _pooling_modes(json.loads((folder / module["path"] / "config.json").read_text(encoding="utf-8")))
        elif kind == "Normalize":
            normalize = True
        elif kind not in {"Transformer", "Dropout"}:
            raise ModelUnusable(f"{file}: module {kind} is not supported; there are Transformer, Pooling and Normalize")
    unknown = [mode for mode in modes if mode not in PADDED_POOLING]
    if unknown:
        raise ModelUnusable(
            f"{file}: pooling {', '.join(unknown)} is not supported; there are {', '.join(PADDED_POOLING)}"
        )
    return modes, normalize


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else list(named)
    return [mode for key, mode in POOLING_KEYS.items() if config.get(key)] or ["mean"]


# (sequences, length, hidden) with its (sequences, length) mask -> (sequences, hidden), all in float32.


def _padded_sum(hidden: Tensor, mask: Tensor) -> Tensor:
    return torch.einsum("slh,sl->sh", hidden, mask.to(hidden.dtype))


def _padded_last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]


PADDED_POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "mean": lambda hidden, mask: _padded_sum(hidden, mask) / mask.sum(1, keepdim=True),
    "mean_sqrt_len_tokens": lambda hidden, mask: _padded_sum(hidden, mask) / mask.sum(1, keepdim=True).sqrt(),
    "max": lambda hidden, mask: hidden.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).amax(1),
    "lasttoken": _padded_last,
}

# (tokens, hidden) with its layout -> (sequences, hidden). Differences of a running sum would be quicker to write, but
# lose digits and carry one sequence's NaN into all that follow.


def _packed_sum(hidden: Tensor, layout: PackedLayout) -> Tensor:
    # One more row, for tokens that belong to nobody.
    sums = hidden.new_zeros(len(layout.cu_seqlens), hidden.shape[1])
    return sums.index_add_(0, layout.owners(len(hidden)), hidden)[:-1]


def _packed_max(hidden: Tensor, layout: PackedLayout) -> Tensor:
    owners = layout.owners(len(hidden)).unsqueeze(1).expand_as(hidden)
    lowest = hidden.new_full((len(layout.cu_seqlens), hidden.shape[1]), -torch.inf)
    return lowest.scatter_reduce_(0, owners, hidden, "amax")[:-1]


PACKED_POOLING: dict[str, Callable[[Tensor, PackedLayout], Tensor]] = {
    "cls": lambda hidden, layout: hidden[layout.starts(len(hidden))],
    "mean": lambda hidden, layout: _packed_sum(hidden, layout) / layout.counts().unsqueeze(1),
    "mean_sqrt_len_tokens": lambda hidden, layout: _packed_sum(hidden, layout) / layout.counts().unsqueeze(1).sqrt(),
    "max": _packed_max,
    "lasttoken": lambda hidden, layout: hidden[layout.cu_seqlens[1:] - 1],
}
