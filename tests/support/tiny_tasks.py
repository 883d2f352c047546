"""Tiny models with random weights for tasks that read pairs of texts or label tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done

STRATEGIES = ("none", "static", "dynamic", "bucket", "packed")
LIMIT = 96
WORDS = ("hay", "rain", "sun", "field", "row", "dry", "wet", "cut", "rake", "mow", "and", "the", "Ä", ".", ",", "!")
TAILS = ("##s", "##ing", "##er", "##y", "##ed")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SMALL = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
    "max_position_embeddings": LIMIT,
}  # fmt: skip
#: The first family reads token types, the others do not. The last one cannot run packed batches.
FAMILIES: dict[str, Callable[..., PretrainedConfig]] = {
    "bert": lambda **more: BertConfig(**SMALL, **more),
    "distilbert": lambda **more: DistilBertConfig(
        vocab_size=40, dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=LIMIT, **more
    ),
    "modernbert": lambda **more: ModernBertConfig(**SMALL, local_attention=16, **more),
    "deberta-v2": lambda **more: DebertaV2Config(
        **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, **more
    ),
}


def word_pieces() -> Tokenizer:
    """Return a WordPiece tokenizer of `WORDS` and `TAILS`; tokens of the second text of a pair have type 1."""
    vocab = {token: number for number, token in enumerate((*SPECIALS, *WORDS, *TAILS))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def whole_words() -> Tokenizer:
    """Return a tokenizer without parts of words, which marks the space before a word."""
    vocab = {token: number for number, token in enumerate((*SPECIALS, *(f"▁{word}" for word in WORDS), *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def save(folder: Path, config: PretrainedConfig, auto_class: Any, tokenizer: Tokenizer | None = None) -> Path:
    """Save a model with random weights that are large: positions, types and other tokens change the output."""
    torch.manual_seed(0)
    model = auto_class.from_config(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.25) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIALS, strict=True))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer or word_pieces(), model_max_length=LIMIT, model_input_names=names, **special
    ).save_pretrained(folder)
    return folder


def save_scorer(folder: Path, family: str = "bert", labels: Sequence[str] = ("score",)) -> Path:
    """Save a model with a classification head for sequences."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    return save(folder, FAMILIES[family](**names), AutoModelForSequenceClassification)


def save_tagger(folder: Path, family: str = "bert", tokenizer: Tokenizer | None = None) -> Path:
    """Save a model with a classification head for tokens."""
    labels = ("O", "B-PLACE", "I-PLACE", "B-TIME", "I-TIME", "THING")
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    return save(folder, FAMILIES[family](**names), AutoModelForTokenClassification, tokenizer)


def settings_for(folder: Path, task: str, strategy: str = "packed", **more: Any) -> ModelSettings:
    """Return settings with buckets that lie between the lengths of the tests."""
    return ModelSettings.model_validate(
        {"task": task, "source": str(folder), "strategy": strategy, "buckets": (16, 32, 256), "max_batch_size": 4,
         "dtype": "float32"} | more
    )  # fmt: skip


#: Words in each text: none, about the length of a bucket, and about the limit beside the hypothesis of a label.
COUNTS = (0, 1, 14, 15, 31, 3, 70, 8)


def text_of(words: int, seed: int = 0) -> str:
    """Return a text with this number of words; a third have a tail, and some are unknown to the tokenizer."""
    draw = np.random.default_rng(seed)
    tails = [tail.removeprefix("##") for tail in TAILS]
    chosen = draw.choice([*WORDS[:13], "xyz"], words)
    return " ".join(word + (str(draw.choice(tails)) if draw.random() < 0.3 else "") for word in chosen)


TEXTS = [text_of(count, seed) for seed, count in enumerate(COUNTS)]


def outputs(outcomes: list[Any]) -> list[dict[str, Any]]:
    assert all(isinstance(outcome, Done) for outcome in outcomes), outcomes
    return [outcome.output for outcome in outcomes]


def without(entity: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entity.items() if key != name}
