"""Task ``rerank``: the score of each document, as in the CrossEncoder of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windrow.errors import ModelUnusable
from windrow.scheduler.models.files import read_modules, read_object
from windrow.scheduler.models.token_counts import default_prompt
from windrow.worker.engines.device.weights import Weights
from windrow.worker.engines.text.logits import LogitsHead, sigmoid
from windrow.worker.engines.text.tokenization import TextRequest

Activation = Callable[[NDArray[np.float32]], NDArray[np.float32]]
#: Last part of the class name in the model's files -> the activation function.
ACTIVATIONS: dict[str, Activation] = {"Sigmoid": sigmoid, "Identity": lambda logits: logits}


class RerankHead(LogitsHead):
    """Output: ``{"scores": [float]}`` in the order of the documents.

    With ``top_n`` also ``"results": [{"index": int, "score": float}]``, the best first.
    """

    def __init__(self, weights: Weights, folder: Path) -> None:
        """Read the activation function. Raises `ModelUnusable` if the model does not have exactly one label."""
        super().__init__(weights, folder)
        if len(self.labels) != 1:
            raise ModelUnusable(
                f"{folder}: a reranker has one score, and this model has {len(self.labels)} labels; "
                "serve it with task classify or zero-shot"
            )
        if default_prompt(folder):
            raise ModelUnusable(f"{folder}: a default prompt is not supported for pairs of texts")
        self._activation = read_activation(folder)

    def outputs(self, vectors: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """Return the scores of each request's documents."""
        scores = self._activation(vectors)
        return [
            _output(of_request[:, 0], request.parameters.top_n)
            for of_request, request in zip(self.split_by_request(scores, requests), requests, strict=True)
        ]


def _output(scores: NDArray[np.float32], top_n: int | None) -> dict[str, Any]:
    listed = scores.tolist()
    if top_n is None:
        return {"scores": listed}
    best = np.argsort(-scores, kind="stable")[:top_n].tolist()
    return {"scores": listed, "results": [{"index": index, "score": listed[index]} for index in best]}


def read_activation(folder: Path) -> Activation:
    """Return the activation function in the model's files, by default the sigmoid.

    Releases of sentence-transformers have written it to three places; the newest one has precedence. Raises
    `ModelUnusable` for a function that is not in `ACTIVATIONS`, or for a module that Windrow does not compute.
    """
    kinds = {str(module["type"]).rpartition(".")[2] for module in read_modules(folder)}
    if not kinds <= {"Transformer"}:
        raise ModelUnusable(
            f"{folder}: modules {', '.join(sorted(kinds))} are not supported; supported is Transformer alone"
        )
    config = read_object(folder / "config.json")
    name = (
        read_object(folder / "config_sentence_transformers.json").get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
        or "Sigmoid"
    )
    kind = str(name).rpartition(".")[2]
    if kind not in ACTIVATIONS:
        raise ModelUnusable(f"{folder}: activation {name} is not supported; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]
