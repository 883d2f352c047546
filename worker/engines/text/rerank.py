"""Task ``rerank``: a cross-encoder's score of each document, as sentence-transformers' CrossEncoder gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.errors import ModelUnusable
from windrow.scheduler.models.files import read_modules, read_object
from windrow.scheduler.models.token_counts import default_prompt
from windrow.worker.engines.text.logits import LogitsEngine
from windrow.worker.engines.text.scores import sigmoid
from windrow.worker.engines.text.tokenization import TextRequest

Activation = Callable[[NDArray[np.float32]], NDArray[np.float32]]
#: Last part of the name that a model's files give its activation -> what it does.
ACTIVATIONS: dict[str, Activation] = {"Sigmoid": sigmoid, "Identity": lambda logits: logits}


class RerankEngine(LogitsEngine):
    """Output: ``{"scores": [float]}`` in the order of the documents.

    With ``top_n`` also ``"results": [{"index": int, "score": float}]``, the best first.
    """

    task = "rerank"

    def _set_up(self) -> None:
        super()._set_up()
        if len(self._labels) != 1:
            raise ModelUnusable(
                f"{self._folder}: a reranker has one score, and this model has {len(self._labels)} labels; "
                "is it one for classify or zero-shot?"
            )
        if default_prompt(self._folder):
            raise ModelUnusable(f"{self._folder}: a default prompt is not supported for pairs of texts")
        self._activation = read_activation(self._folder)

    def _outputs(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        scores = self._activation(rows)
        return [
            _output(of_request[:, 0], one.parameters.top_n)
            for of_request, one in zip(self._split_rows(scores, requests), requests, strict=True)
        ]


def _output(scores: NDArray[np.float32], top_n: int | None) -> dict[str, Any]:
    listed = scores.tolist()
    if top_n is None:
        return {"scores": listed}
    best = np.argsort(-scores, kind="stable")[:top_n].tolist()
    return {"scores": listed, "results": [{"index": index, "score": listed[index]} for index in best]}


def read_activation(folder: Path) -> Activation:
    """What becomes of a logit, as the model's files say; without a word of it, the sigmoid.

    sentence-transformers has written it in three places over its releases; the newest counts. Raises `ModelUnusable`
    for another one than `ACTIVATIONS`, and for a model with modules that are not computed here.
    """
    modules = read_modules(folder)
    kinds = {str(module["type"]).rpartition(".")[2] for module in modules}
    if not kinds <= {"Transformer"}:
        raise ModelUnusable(f"{folder}: modules {', '.join(sorted(kinds))} are not supported; there is Transformer")
    config = read_object(folder / "config.json")
    name = (
        read_object(folder / "config_sentence_transformers.json").get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
        or "Sigmoid"
    )
    kind = str(name).rpartition(".")[2]
    if kind not in ACTIVATIONS:
        raise ModelUnusable(f"{folder}: activation {name} is not supported; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]
