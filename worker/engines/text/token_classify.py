"""Task ``token-classify``: a label for each token of a text, made entities on the host."""

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
from windrow.worker.engines.device.weights import read_labels
from windrow.worker.engines.text.encoder import EncoderEngine
from windrow.worker.engines.text.entities import Labelling, Token, find_entities
from windrow.worker.engines.text.scores import softmax
from windrow.worker.engines.text.tokenization import TextRequest


class TokenClassifyEngine(EncoderEngine):
    """Output: ``{"entities": [...]}``, see `find_entities`."""

    task = "token-classify"
    auto_class = "AutoModelForTokenClassification"
    rows_per_token = True

    def _set_up(self) -> None:
        config = self._weights.module.config
        tokenizer = load_tokenizer(self._folder)
        labels = read_labels(config, self._folder)
        self._labelling = Labelling(labels, lambda tokens: _join(tokenizer, tokens))
        # With a prefix, a token is longer than the characters it stands for; else only a space tells words apart.
        self._has_prefix = bool(getattr(tokenizer.model, "continuing_subword_prefix", None))
        self._unknown_id = _unknown_id(self._folder, tokenizer)

    def _padded_rows(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        return self._weights.module(input_ids=input_ids, attention_mask=attention_mask).logits

    def _packed_rows(
        self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout, token_type_ids: Tensor | None = None
    ) -> Tensor:
        return self._weights.module(input_ids=input_ids, position_ids=position_ids, packed=layout).logits[0]

    def _outputs(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        scores = self._split_rows(softmax(rows), requests)
        return [self._output(of_text, one) for of_text, one in zip(scores, requests, strict=True)]

    def _output(self, scores: NDArray[np.float32], request: TextRequest) -> dict[str, Any]:
        (text,), (encoding,) = request.texts, request.encodings
        tokens = list(self._tokens(text if isinstance(text, str) else "", encoding, request.skipped))
        kept = scores[[token.position for token in tokens]]
        return {"entities": find_entities(tokens, kept, request.parameters.aggregation, self._labelling)}

    def _tokens(self, text: str, encoding: Encoding, skipped: int) -> Iterator[Token]:
        said = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
        for index, (id, token, (start, end), is_special) in enumerate(said):
            if is_special:
                continue
            start, end = start + skipped, end + skipped
            written = text[start:end]
            if id == self._unknown_id:
                yield Token(index, written, start, end, False)
            elif self._has_prefix:
                yield Token(index, token, start, end, len(token) != len(written))
            else:
                yield Token(index, token, start, end, start > 0 and " " not in text[start - 1 : start + 1])


def _join(tokenizer: Tokenizer, tokens: list[str]) -> str:
    return " ".join(tokens) if tokenizer.decoder is None else tokenizer.decoder.decode(tokens)


def _unknown_id(folder: Path, tokenizer: Tokenizer) -> int | None:
    """The id of what the tokenizer does not know; None where it knows everything."""
    named = read_object(folder / "tokenizer_config.json").get("unk_token")
    token = named.get("content") if isinstance(named, dict) else named
    token = token or getattr(tokenizer.model, "unk_token", None)
    return None if token is None else tokenizer.token_to_id(token)
