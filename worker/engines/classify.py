"""Task ``classify``: the best label and the score of each, as transformers' text-classification gives them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from worker.engines.attention import PackedLayout
from worker.engines.embed import PACKED_POOLING
from worker.engines.encoder import EncoderEngine


class ClassifyEngine(EncoderEngine):
    """Output: ``{"label": str, "score": float, "scores": {label: float}}``."""

    task = "classify"
    auto_class = "AutoModelForSequenceClassification"

    def _set_up(self) -> None:
        config = self._weights.module.config
        self._labels = [str(config.id2label[index]) for index in range(config.num_labels)]
        self._problem_type = config.problem_type
        self._base = self._weights.module.base_model
        self._head = _head_alone(self._weights.module)
        # ModernBERT's heads may read the mean; every other one that packs here reads the first token.
        self._summary = PACKED_POOLING["mean" if getattr(config, "classifier_pooling", None) == "mean" else "cls"]

    def _padded_rows(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self._weights.module(input_ids=input_ids, attention_mask=attention_mask).logits

    def _packed_rows(self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout) -> Tensor:
        hidden = self._base(input_ids=input_ids, position_ids=position_ids, packed=layout).last_hidden_state
        summary = self._summary(hidden[0], layout).to(hidden.dtype)
        # To the head, a batch of texts of one token each: its first token and its mean are both the summary.
        return self._head(inputs_embeds=summary.unsqueeze(1)).logits

    def _outputs(self, rows: NDArray[np.float32]) -> list[dict[str, Any]]:
        # All at once: numpy costs microseconds a call, and there are tens of thousands of rows a second.
        scores = label_scores(rows, self._problem_type)
        return [
            {
                "label": self._labels[best],
                "score": of_text[best],
                "scores": dict(zip(self._labels, of_text, strict=True)),
            }
            for best, of_text in zip(scores.argmax(1).tolist(), scores.tolist(), strict=True)
        ]


def label_scores(logits: NDArray[np.float32], problem_type: str | None) -> NDArray[np.float32]:
    """(texts, labels) logits -> (texts, labels) scores, by the rule of transformers' TextClassificationPipeline.

    ``regression`` leaves them as they are; several labels at once, or a single one, go through a sigmoid; else softmax.
    """
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification" or logits.shape[1] == 1:
        # By tanh: exp would overflow for large negative logits.
        return 0.5 * (1 + np.tanh(0.5 * logits))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


class _Summaries(nn.Module):
    """Stands where the encoder stood, and answers with hidden states that were computed before."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """(sequences, 1, hidden) -> the same, with the pooler's answer where the model has one."""
        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


def _head_alone(module: nn.Module) -> nn.Module:
    """The model with its own forward and head, sharing their weights, but without its encoder.

    Every family writes its head differently, inside its forward; this runs that code instead of repeating it.
    """
    head = copy.copy(module)
    pooler = getattr(module.base_model, "pooler", None)
    # A shallow copy shares the table of submodules; the shared model must keep its encoder.
    head._modules = {**module._modules, module.base_model_prefix: _Summaries(pooler)}
    return head
