"""Scores from logits, on the host in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores from 0 to 1, independent of each other."""
    # By tanh, because exp would overflow for large negative logits.
    return 0.5 * (1 + np.tanh(0.5 * logits))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores from 0 to 1 that sum to 1 over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
