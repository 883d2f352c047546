"""Task ``zero-shot``: scores how well a text entails a hypothesis about each label, as in the transformers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.errors import ModelUnusable
from windrow.scheduler.tasks.zero_shot import ZeroShotParameters
from windrow.worker.engines.device.weights import Weights
from windrow.worker.engines.text.logits import LogitsHead, softmax
from windrow.worker.engines.text.tokenization import TextRequest


class ZeroShotHead(LogitsHead):
    """Output: ``{"labels": [str], "scores": [float]}``, the best first."""

    def __init__(self, weights: Weights, folder: Path) -> None:
        """Find the label of entailment. Raises `ModelUnusable` if there is none."""
        super().__init__(weights, folder)
        entailment = _find(self.labels, "entail")
        if entailment is None or len(self.labels) < 2:
            raise ModelUnusable(
                f"{folder}: its labels are {', '.join(self.labels)}; zero-shot needs a model of natural "
                "language inference, with at least two labels of which one starts with 'entail'"
            )
        # Without a label of that name, the first label, or the last one if the first is entailment, as in the pipeline
        # of transformers.
        named = _find(self.labels, "contradict")
        contradiction = named if named is not None else 0 if entailment else len(self.labels) - 1
        self._entailment, self._contradiction = entailment, contradiction

    def outputs(self, vectors: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """Return the sorted labels and scores of each request."""
        return [
            self._output(of_request, request.parameters)
            for of_request, request in zip(self.split_by_request(vectors, requests), requests, strict=True)
        ]

    def _output(self, logits: NDArray[np.float32], parameters: ZeroShotParameters) -> dict[str, Any]:
        if parameters.multi_label or len(logits) == 1:
            scores = softmax(logits[:, [self._contradiction, self._entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self._entailment])
        order = np.argsort(-scores, kind="stable").tolist()
        return {"labels": [parameters.labels[index] for index in order], "scores": scores[order].tolist()}


def _find(labels: Sequence[str], start: str) -> int | None:
    return next((index for index, label in enumerate(labels) if label.lower().startswith(start)), None)
