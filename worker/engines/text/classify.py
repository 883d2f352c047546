"""Task ``classify``: the best label and the score of each, as transformers' text-classification gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.errors import ModelUnusable
from windrow.worker.engines.text.logits import LogitsEngine
from windrow.worker.engines.text.scores import sigmoid, softmax
from windrow.worker.engines.text.tokenization import TextRequest


class ClassifyEngine(LogitsEngine):
    """Output: ``{"label": str, "score": float, "scores": {label: float}}``."""

    task = "classify"

    def _set_up(self) -> None:
        super()._set_up()
        twice = next((label for label in self._labels if self._labels.count(label) > 1), None)
        if twice is not None:
            raise ModelUnusable(
                f"{self._folder}: the label {twice!r} is there twice, so there would be no telling their scores apart; "
                "give each its own name in id2label of config.json"
            )

    def _outputs(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
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
        return sigmoid(logits)
    return softmax(logits)
