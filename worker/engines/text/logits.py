"""What the tasks share whose models score a whole sequence: the logits of a classification head, padded or packed."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.device.weights import read_labels
from windrow.worker.engines.text.embed import PACKED_POOLING
from windrow.worker.engines.text.encoder import EncoderEngine, describe_heads


class LogitsEngine(EncoderEngine):
    """Rows are the (labels,) logits of each sequence."""

    auto_class = "AutoModelForSequenceClassification"

    def _set_up(self) -> None:
        config = self._weights.module.config
        self._labels = read_labels(config, self._folder)
        self._problem_type = config.problem_type
        self._base = self._weights.module.base_model
        self._head = _head_alone(self._weights.module)
        # ModernBERT's heads may read the mean; every other one that packs here reads the first token.
        self._summary = PACKED_POOLING["mean" if getattr(config, "classifier_pooling", None) == "mean" else "cls"]

    def _padded_rows(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        types = describe_heads(token_type_ids)
        return self._weights.module(input_ids=input_ids, attention_mask=attention_mask, **types).logits

    def _packed_rows(
        self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout, token_type_ids: Tensor | None = None
    ) -> Tensor:
        types = describe_heads(token_type_ids)
        hidden = self._base(input_ids=input_ids, position_ids=position_ids, packed=layout, **types).last_hidden_state
        summary = self._summary(hidden[0], layout).to(hidden.dtype)
        # To the head, a batch of texts of one token each: its first token and its mean are both the summary.
        return self._head(inputs_embeds=summary.unsqueeze(1)).logits


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
