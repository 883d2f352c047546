"""Logits -> scores, on the host and in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """0 to 1, each by itself."""
    # By tanh: exp would overflow for large negative logits.
    return 0.5 * (1 + np.tanh(0.5 * logits))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """0 to 1, adding up to 1 over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
