"""Task ``classify``: the best label and the score of each, as in the text-classification pipeline of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.errors import ModelUnusable
from windrow.worker.engines.device.weights import Weights
from windrow.worker.engines.text.logits import LogitsHead, sigmoid, softmax
from windrow.worker.engines.text.tokenization import TextRequest


class ClassifyHead(LogitsHead):
    """Output: ``{"label": str, "score": float, "scores": {label: float}}``."""

    def __init__(self, weights: Weights, folder: Path) -> None:
        """Raise `ModelUnusable` if two labels have the same name."""
        super().__init__(weights, folder)
        self._problem_type = self.module.config.problem_type
        repeated = next((label for label in self.labels if self.labels.count(label) > 1), None)
        if repeated is not None:
            raise ModelUnusable(
                f"{folder}: two labels have the name {repeated!r}, so their scores cannot be distinguished; give "
                "each label its own name in id2label of config.json"
            )

    def outputs(self, vectors: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """Return label and scores of each text."""
        # All texts at once: a call of numpy costs microseconds, and there may be tens of thousands of texts a second.
        scores = label_scores(vectors, self._problem_type)
        return [
            {"label": self.labels[best], "score": of_text[best], "scores": dict(zip(self.labels, of_text, strict=True))}
            for best, of_text in zip(scores.argmax(1).tolist(), scores.tolist(), strict=True)
        ]


def label_scores(logits: NDArray[np.float32], problem_type: str | None) -> NDArray[np.float32]:
    """Return the (texts, labels) scores of logits, by the rule of TextClassificationPipeline in transformers.

    Unchanged for ``regression``; sigmoid for several labels at once or for a single label; otherwise softmax.
    """
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification" or logits.shape[1] == 1:
        return sigmoid(logits)
    return softmax(logits)
