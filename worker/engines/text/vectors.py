"""A vector as the caller asked for it: cut, as numbers, as base64 or in 8 bits."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.scheduler.tasks.embed import EmbedParameters

#: The largest magnitude in 8 bits; -128 is not used, so that a vector and its opposite are coded alike.
INT8_MAX = 127


def vector_output(row: NDArray[np.float32], parameters: EmbedParameters, normalizes: bool) -> dict[str, Any]:
    """(width,) -> the output object of one text.

    ``float``: ``{"embedding": (dimensions,) float32}``; ``base64``: the same bytes, little-endian, as a string;
    ``int8``: ``{"embedding": (dimensions,) int8, "scale": float}``, see `quantize`. A vector that was cut has length 1
    again where ``normalizes`` says that the model's have.
    """
    if parameters.dimensions is not None and parameters.dimensions < len(row):
        row = row[: parameters.dimensions]
        length = np.linalg.norm(row) if normalizes else 0
        row = row / length if length > 0 else row
    if parameters.encoding_format == "base64":
        return {"embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()}
    if parameters.encoding_format == "int8":
        codes, scale = quantize(row)
        return {"embedding": codes, "scale": scale}
    return {"embedding": row}


def quantize(row: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """Code ``row`` symmetrically: ``codes * scale`` is ``row``, each number within half a ``scale``.

    The scale is the largest magnitude over 127. A vector of zeros has scale 0; one that is not finite is not coded.
    """
    largest = float(np.abs(row).max())
    if largest == 0 or not np.isfinite(largest):
        return np.zeros(len(row), dtype=np.int8), 0.0
    # Of a vector of the smallest numbers there are, the factor is beyond float32.
    return np.rint(row.astype(np.float64) * (INT8_MAX / largest)).astype(np.int8), largest / INT8_MAX
