"""Task ``embed``: one vector a text, pooled as the model's sentence-transformers files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from windrow.errors import InvalidInput, ModelUnusable
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.models.token_counts import default_prompt
from windrow.scheduler.tasks.embed import require_dimensions
from windrow.scheduler.tasks.pooling import excludes_prompt, read_pooling
from windrow.worker.engines.base import Prepared
from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.text.encoder import EncoderEngine
from windrow.worker.engines.text.tokenization import TextRequest
from windrow.worker.engines.text.vectors import vector_output


class EmbedEngine(EncoderEngine):
    """Output: ``{"embedding": ...}``, see `vector_output`."""

    task = "embed"
    auto_class = "AutoModel"

    def _set_up(self) -> None:
        self._modes, self._normalize = read_pooling(self._folder)
        unknown = [mode for mode in self._modes if mode not in PADDED_POOLING]
        if unknown:
            raise ModelUnusable(
                f"{self._folder}: pooling {', '.join(unknown)} is not supported; there are {', '.join(PADDED_POOLING)}"
            )
        if excludes_prompt(self._folder) and default_prompt(self._folder):
            raise ModelUnusable(
                f"{self._folder}: a default prompt that is not pooled (include_prompt false) is not supported; "
                "clear default_prompt_name in config_sentence_transformers.json, and send the prompt with the text"
            )

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """As `EncoderEngine.prepare`; more dimensions than the vectors have are a `Failed` too."""
        return [self._within_width(one) for one in super().prepare(inputs, parameters)]

    def _within_width(self, one: Prepared | Failed) -> Prepared | Failed:
        if not isinstance(one, Failed):
            try:
                require_dimensions(one.data.parameters.dimensions, self._width)
            except InvalidInput as error:
                return Failed(error)
        return one

    def _padded_rows(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        hidden = self._weights.module(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._finish([PADDED_POOLING[mode](hidden.float(), mask) for mode in self._modes])

    def _packed_rows(
        self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout, token_type_ids: Tensor | None = None
    ) -> Tensor:
        hidden = self._weights.module(input_ids=input_ids, position_ids=position_ids, packed=layout).last_hidden_state
        return self._finish([PACKED_POOLING[mode](hidden[0].float(), layout) for mode in self._modes])

    def _finish(self, pooled: list[Tensor]) -> Tensor:
        rows = torch.cat(pooled, dim=1)
        return F.normalize(rows, dim=1) if self._normalize else rows

    def _outputs(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        return [vector_output(row, one.parameters, self._normalize) for row, one in zip(rows, requests, strict=True)]


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

# (tokens, hidden) with its layout -> (sequences, hidden); sums are taken in float32. Differences of a running sum would
# be quicker to write, but lose digits and carry one sequence's NaN into all that follow.


def _packed_sum(hidden: Tensor, layout: PackedLayout) -> Tensor:
    # One more row, for tokens that belong to nobody.
    sums = hidden.new_zeros(len(layout.cu_seqlens), hidden.shape[1], dtype=torch.float32)
    return sums.index_add_(0, layout.owners(len(hidden)), hidden.float())[:-1]


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
