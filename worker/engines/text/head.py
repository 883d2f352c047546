"""`TaskHead`: the part of a text engine that differs from task to task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from windrow.worker.engines.base import Prepared
from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.device.token_batches import start_offsets
from windrow.worker.engines.device.weights import Weights
from windrow.worker.engines.text.tokenization import TextRequest


class TaskHead(ABC):
    """How one task gets vectors out of an encoder and turns them into outputs.

    A vector is the embedding or the logits of one sequence, or of one token if `per_token` is set.
    """

    #: The class of ``transformers`` that loads the weights.
    auto_class: ClassVar[str]
    #: Whether each token gets a vector of its own; the tokenizer then returns offsets, too.
    per_token: ClassVar[bool] = False

    def __init__(self, weights: Weights, folder: Path) -> None:
        """Read from ``folder`` what the task needs beside the weights. Raises `ModelUnusable`."""
        self.module = weights.module
        #: The module that runs packed batches.
        self.packed_module = weights.module

    def padded_vectors(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Run the model on a padded batch of (sequences, length) ids.

        Returns (sequences, width) vectors, or (sequences, length, width) if `per_token` is set. ``attention_mask`` is
        None if there is no padding, ``token_type_ids`` if the model does not use them.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.module(input_ids=input_ids, attention_mask=attention_mask, **types)
        return self.from_padded(output, attention_mask)

    def packed_vectors(
        self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Run the model on a packed batch of (1, tokens) ids.

        Returns (sequences, width) vectors, or (tokens, width) if `per_token` is set.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.packed_module(input_ids=input_ids, position_ids=position_ids, packed=layout, **types)
        return self.from_packed(output, layout)

    def from_padded(self, output: Any, mask: Tensor | None) -> Tensor:
        """Return the vectors of a padded batch from the output of `module`; ``mask`` is None without padding."""
        return output.logits

    @abstractmethod
    def from_packed(self, output: Any, layout: PackedLayout) -> Tensor:
        """Return the vectors of a packed batch from the output of `packed_module`."""

    @abstractmethod
    def outputs(self, vectors: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """Turn the vectors of all ``requests`` of a batch, in order, into one output object per request."""

    def request_check(self, width: int) -> Callable[[Prepared], None] | None:
        """Return a check that raises `InvalidInput` for a request that this model cannot answer; None if not needed.

        ``width`` is the width of the model's vectors.
        """
        return None

    def vector_counts(self, requests: Sequence[TextRequest]) -> list[int]:
        """Return how many vectors each request has."""
        if self.per_token:
            return [sum(map(len, request.sequences)) for request in requests]
        return [len(request.sequences) for request in requests]

    def split_by_request(
        self, vectors: NDArray[np.float32], requests: Sequence[TextRequest]
    ) -> list[NDArray[np.float32]]:
        """Return the vectors of each request."""
        return np.split(vectors, start_offsets(self.vector_counts(requests))[1:])
