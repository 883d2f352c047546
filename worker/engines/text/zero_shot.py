"""Task ``zero-shot``: how surely a text entails a sentence about each label, as transformers' pipeline scores it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.errors import ModelUnusable
from windrow.scheduler.tasks.zero_shot import ZeroShotParameters
from windrow.worker.engines.text.logits import LogitsEngine
from windrow.worker.engines.text.scores import softmax
from windrow.worker.engines.text.tokenization import TextRequest


class ZeroShotEngine(LogitsEngine):
    """Output: ``{"labels": [str], "scores": [float]}``, the best first."""

    task = "zero-shot"

    def _set_up(self) -> None:
        super()._set_up()
        entails = _find(self._labels, "entail")
        if entails is None or len(self._labels) < 2:
            raise ModelUnusable(
                f"{self._folder}: its labels are {', '.join(self._labels)}; zero-shot needs a model of natural "
                "language inference, two labels or more of which one starts with 'entail'"
            )
        # Where no label says so it is the first one, or the last one where the first is entailment: what transformers'
        # pipeline takes for it.
        named = _find(self._labels, "contradict")
        contradicts = named if named is not None else 0 if entails else len(self._labels) - 1
        self._entails, self._contradicts = entails, contradicts

    def _outputs(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        return [
            self._output(of_request, one.parameters)
            for of_request, one in zip(self._split_rows(rows, requests), requests, strict=True)
        ]

    def _output(self, logits: NDArray[np.float32], parameters: ZeroShotParameters) -> dict[str, Any]:
        if parameters.multi_label or len(logits) == 1:
            scores = softmax(logits[:, [self._contradicts, self._entails]])[:, 1]
        else:
            scores = softmax(logits[:, self._entails])
        order = np.argsort(-scores, kind="stable").tolist()
        return {"labels": [parameters.labels[at] for at in order], "scores": scores[order].tolist()}


def _find(labels: Sequence[str], start: str) -> int | None:
    return next((at for at, label in enumerate(labels) if label.lower().startswith(start)), None)
