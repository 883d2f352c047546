"""Task ``embed``: one vector per text, pooled as configured in the model's sentence-transformers files."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from windrow.errors import ModelUnusable
from windrow.scheduler.models.token_counts import default_prompt
from windrow.scheduler.tasks.embed import EmbedParameters, require_dimensions
from windrow.scheduler.tasks.pooling import excludes_prompt, read_pooling
from windrow.worker.engines.base import Prepared
from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.device.weights import Weights
from windrow.worker.engines.text.head import TaskHead
from windrow.worker.engines.text.pooling import PACKED_POOLING, PADDED_POOLING
from windrow.worker.engines.text.tokenization import TextRequest

#: The largest 8-bit code; -128 is not used, so that the codes of a vector and its negative differ in sign only.
INT8_MAX = 127


class EmbedHead(TaskHead):
    """Output: ``{"embedding": ...}``, see `vector_output`. Vectors are the embeddings."""

    auto_class = "AutoModel"

    def __init__(self, weights: Weights, folder: Path) -> None:
        """Read the pooling modes. Raises `ModelUnusable` for one that is not supported."""
        super().__init__(weights, folder)
        self._modes, self._normalize = read_pooling(folder)
        unknown = [mode for mode in self._modes if mode not in PADDED_POOLING]
        if unknown:
            raise ModelUnusable(
                f"{folder}: pooling mode {', '.join(unknown)} is not supported; supported are "
                f"{', '.join(PADDED_POOLING)}"
            )
        if excludes_prompt(folder) and default_prompt(folder):
            raise ModelUnusable(
                f"{folder}: a default prompt that is left out of the pooling (include_prompt false) is not supported; "
                "remove default_prompt_name from config_sentence_transformers.json and send the prompt with the text"
            )

    def request_check(self, width: int) -> Callable[[Prepared], None]:
        """Refuse more ``dimensions`` than the model's vectors have."""
        return lambda prepared: require_dimensions(prepared.data.parameters.dimensions, width)

    def from_padded(self, output: Any, mask: Tensor | None) -> Tensor:
        """Pool the hidden states of each sequence."""
        hidden = output.last_hidden_state.float()
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        return self._joined([PADDED_POOLING[mode](hidden, mask) for mode in self._modes])

    def from_packed(self, output: Any, layout: PackedLayout) -> Tensor:
        """Pool the hidden states of each sequence."""
        hidden = output.last_hidden_state[0].float()
        return self._joined([PACKED_POOLING[mode](hidden, layout) for mode in self._modes])

    def _joined(self, pooled: list[Tensor]) -> Tensor:
        vectors = torch.cat(pooled, dim=1)
        return F.normalize(vectors, dim=1) if self._normalize else vectors

    def outputs(self, vectors: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """Encode each vector as its request asks for."""
        return [
            vector_output(vector, request.parameters, self._normalize)
            for vector, request in zip(vectors, requests, strict=True)
        ]


def vector_output(vector: NDArray[np.float32], parameters: EmbedParameters, normalizes: bool) -> dict[str, Any]:
    """Return the output object of one text from its (width,) vector.

    ``float``: ``{"embedding": (dimensions,) float32}``; ``base64``: its little-endian bytes as a string; ``int8``:
    ``{"embedding": (dimensions,) int8, "scale": float}``, see `quantize`. If the model ``normalizes`` its vectors, a
    shortened vector is normalized again.
    """
    if parameters.dimensions is not None and parameters.dimensions < len(vector):
        vector = vector[: parameters.dimensions]
        length = np.linalg.norm(vector) if normalizes else 0
        vector = vector / length if length > 0 else vector
    if parameters.encoding_format == "base64":
        return {"embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()}
    if parameters.encoding_format == "int8":
        codes, scale = quantize(vector)
        return {"embedding": codes, "scale": scale}
    return {"embedding": vector}


def quantize(vector: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """Return 8-bit codes and a scale such that ``codes * scale`` is ``vector``, each number within half a ``scale``.

    The scale is the largest magnitude divided by 127. A vector of zeros, or with NaN or infinity, has scale 0.
    """
    largest = float(np.abs(vector).max())
    if largest == 0 or not np.isfinite(largest):
        return np.zeros(len(vector), dtype=np.int8), 0.0
    # In float64: for the smallest numbers, the factor overflows float32.
    return np.rint(vector.astype(np.float64) * (INT8_MAX / largest)).astype(np.int8), largest / INT8_MAX
