"""Task ``token-classify``: a label for each token of a text; the host forms entities from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from windrow.scheduler.models.files import read_object
from windrow.scheduler.models.token_counts import load_tokenizer
from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.device.weights import Weights, read_labels
from windrow.worker.engines.text.entities import Token, find_entities
from windrow.worker.engines.text.head import TaskHead
from windrow.worker.engines.text.logits import softmax
from windrow.worker.engines.text.tokenization import TextRequest


class TokenClassifyHead(TaskHead):
    """Output: ``{"entities": [...]}``, see `find_entities`. Vectors are the (labels,) logits of each token."""

    auto_class = "AutoModelForTokenClassification"
    per_token = True

    def __init__(self, weights: Weights, folder: Path) -> None:
        """Read the labels and the tokenizer. Raises `ModelUnusable`."""
        super().__init__(weights, folder)
        self._labels = read_labels(self.module.config, folder)
        self._tokenizer = load_tokenizer(folder)
        # With such a prefix, a token that continues a word is longer than its characters in the text. Without it, only
        # a space before the token marks the start of a word.
        self._has_prefix = bool(getattr(self._tokenizer.model, "continuing_subword_prefix", None))
        self._unknown_id = _unknown_id(folder, self._tokenizer)

    def from_packed(self, output: Any, layout: PackedLayout) -> Tensor:
        """Return the logits of each token."""
        return output.logits[0]

    def outputs(self, vectors: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """Return the entities of each text."""
        scores = self.split_by_request(softmax(vectors), requests)
        return [self._output(of_text, request) for of_text, request in zip(scores, requests, strict=True)]

    def _output(self, scores: NDArray[np.float32], request: TextRequest) -> dict[str, Any]:
        (text,), (encoding,) = request.texts, request.encodings
        tokens = list(self._tokens(text if isinstance(text, str) else "", encoding, request.skipped))
        kept = scores[[token.position for token in tokens]]
        return {"entities": find_entities(tokens, kept, request.parameters.aggregation, self._labels, self._join)}

    def _tokens(self, text: str, encoding: Encoding, skipped: int) -> Iterator[Token]:
        encoded = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
        for index, (id, token, (start, end), is_special) in enumerate(encoded):
            if is_special:
                continue
            start, end = start + skipped, end + skipped
            characters = text[start:end]
            if id == self._unknown_id:
                yield Token(index, characters, start, end, False)
            elif self._has_prefix:
                yield Token(index, token, start, end, len(token) != len(characters))
            else:
                yield Token(index, token, start, end, start > 0 and " " not in text[start - 1 : start + 1])

    def _join(self, tokens: list[str]) -> str:
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)


def _unknown_id(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Return the id of the token for unknown text; None if the tokenizer has none."""
    configured = read_object(folder / "tokenizer_config.json").get("unk_token")
    token = configured.get("content") if isinstance(configured, dict) else configured
    token = token or getattr(tokenizer.model, "unk_token", None)
    return None if token is None else tokenizer.token_to_id(token)
