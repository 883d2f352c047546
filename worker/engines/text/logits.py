"""Scores of whole sequences: the logits of a classification head, for padded or packed batches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.device.weights import Weights, read_labels
from windrow.worker.engines.text.head import TaskHead
from windrow.worker.engines.text.pooling import PACKED_POOLING


class LogitsHead(TaskHead):
    """Vectors are the (labels,) logits of each sequence."""

    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, weights: Weights, folder: Path) -> None:
        """Read the labels. Raises `ModelUnusable` if config.json does not name all of them."""
        super().__init__(weights, folder)
        config = self.module.config
        self.labels = read_labels(config, folder)
        self.packed_module = self.module.base_model
        self._classifier = _without_encoder(self.module)
        # Heads of ModernBERT may read the mean of the hidden states; those of all other families that can run packed
        # batches read the first token.
        self._pooling = PACKED_POOLING["mean" if getattr(config, "classifier_pooling", None) == "mean" else "cls"]

    def from_packed(self, output: Any, layout: PackedLayout) -> Tensor:
        """Return the logits of each sequence from the hidden states of the encoder."""
        hidden = output.last_hidden_state
        pooled = self._pooling(hidden[0], layout).to(hidden.dtype)
        # To the head this is a batch of sequences of one token, of which first token and mean are both ``pooled``.
        return self._classifier(inputs_embeds=pooled.unsqueeze(1)).logits


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores from 0 to 1, independent of each other."""
    # By tanh, because exp would overflow for large negative logits.
    return 0.5 * (1 + np.tanh(0.5 * logits))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores from 0 to 1 that sum to 1 over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class _PooledStates(nn.Module):
    """Takes the place of the encoder and returns hidden states that were computed before."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Return the (sequences, 1, hidden) states, and the output of the pooler if the model has one."""
        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


def _without_encoder(module: nn.Module) -> nn.Module:
    """Return a copy of the model that shares its head but has `_PooledStates` instead of its encoder.

    Every family has another head, inside its forward method; this runs that code instead of repeating it.
    """
    head = copy.copy(module)
    pooler = getattr(module.base_model, "pooler", None)
    # A shallow copy shares the dictionary of submodules, in which the original must keep its encoder.
    head._modules = {**module._modules, module.base_model_prefix: _PooledStates(pooler)}
    return head
