"""Encodings of an embedding: shortened, as numbers, as base64 or in 8 bits."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.scheduler.tasks.embed import EmbedParameters

#: The largest 8-bit code; -128 is not used, so that the codes of a vector and its negative differ in sign only.
INT8_MAX = 127


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
