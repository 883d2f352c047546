"""Tiny encoders of six families with random weights, and the strategies and lengths that tests try with each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from tests.support.run_engine import run_prepared
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.tasks import TASKS
from windrow.worker.engines.base import Engine, Prepared
from windrow.worker.engines.device.token_batches import Tokens
from windrow.worker.engines.text.tokenization import TextRequest

STRATEGIES = ("none", "static", "dynamic", "bucket", "packed")
LIMIT = 96
BUCKETS = (16, 32, 256)
#: Around the lengths that matter: one token, each bucket, the smallest captured size (64), and the limit.
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 2, 63, 64, 65, 5, LIMIT - 1, LIMIT)
WORDS = [f"w{number}" for number in range(120)]
SMALL = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "num_labels": 3,
}  # fmt: skip
#: Largest accepted relative difference from one sequence at a time.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-2}
AUTO_CLASSES: dict[str, Any] = {"embed": AutoModel, "classify": AutoModelForSequenceClassification}


@dataclass(frozen=True)
class Family:
    """One architecture."""

    config: Callable[[], PretrainedConfig]
    #: Part of `EngineInfo.strategy_note` for a family that cannot run packed batches; None for one that can.
    own_attention: str | None = None


FAMILIES = {
    "bert": Family(lambda: BertConfig(**SMALL, max_position_embeddings=LIMIT)),
    # Positions count from pad_token_id + 1.
    "roberta": Family(lambda: RobertaConfig(**SMALL, max_position_embeddings=LIMIT + 2)),
    "distilbert": Family(
        lambda: DistilBertConfig(
            vocab_size=128, dim=32, hidden_dim=48, n_layers=2, n_heads=2, pad_token_id=1, num_labels=3,
            max_position_embeddings=LIMIT,
        )
    ),
    # Sliding windows of 8 tokens to each side, far shorter than the texts.
    "modernbert": Family(
        lambda: ModernBertConfig(**SMALL, max_position_embeddings=LIMIT, local_attention=16, classifier_pooling="mean")
    ),
    "mpnet": Family(lambda: MPNetConfig(**SMALL, max_position_embeddings=LIMIT + 2), "MPNet"),
    "deberta-v2": Family(
        lambda: DebertaV2Config(
            **SMALL, max_position_embeddings=LIMIT, relative_attention=True, pos_att_type=["p2c", "c2p"],
            position_biased_input=False, position_buckets=8,
        ),
        "DebertaV2",
    ),
}  # fmt: skip


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of the words w0 to w119, [UNK] for all others, and <s> and </s> around each text."""
    vocab = {token: index for index, token in enumerate(["[UNK]", "<pad>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    ).save_pretrained(folder)


def save_model(folder: Path, config: PretrainedConfig, auto_class: Any = AutoModel) -> Path:
    """Save a model with random weights and its tokenizer."""
    torch.manual_seed(0)
    model = auto_class.from_config(config)
    for parameter in model.parameters():
        # Larger than initial weights, so that positions and the other tokens change the output measurably.
        parameter.data.normal_(0, 0.15) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


class TinyModels:
    """Model folders, and the outputs of transformers for them; each is made once."""

    def __init__(self, new_folder: Callable[[str], Path]) -> None:
        self._new_folder = new_folder
        # One cache per object, because the folders are deleted at the end of the tests.
        self.folder = functools.cache(self._folder)
        self.one_by_one = functools.cache(self._one_by_one)

    def _folder(self, family: str, task: str) -> Path:
        return save_model(self._new_folder(f"{family}-{task}"), FAMILIES[family].config(), AUTO_CLASSES[task])

    def _one_by_one(self, family: str, task: str, dtype: str = "float32", device: str = "cpu") -> np.ndarray:
        """Return the (texts, width) mean hidden states, or scores, of each of `token_ids` alone."""
        model = AUTO_CLASSES[task].from_pretrained(self.folder(family, task), dtype=getattr(torch, dtype))
        model = model.eval().to(device)
        with torch.inference_mode():
            outputs = [model(input_ids=torch.tensor(ids[None], device=device)) for ids in token_ids()]
        if task == "embed":
            return np.stack([output.last_hidden_state[0].float().mean(0).cpu().numpy() for output in outputs])
        return np.stack([output.logits[0].float().softmax(0).cpu().numpy() for output in outputs])


def token_ids(lengths: Sequence[int] = LENGTHS) -> list[np.ndarray]:
    """Return random texts of ordinary words as ids, one of each length."""
    draw = np.random.default_rng(7)
    return [draw.integers(4, 4 + len(WORDS), length) for length in lengths]


def settings_for(source: Path | str, task: str = "embed", strategy: str = "packed", **more: Any) -> ModelSettings:
    return ModelSettings(
        task=task, source=str(source), strategy=strategy, buckets=BUCKETS, max_batch_size=4, dtype="float32", **more
    )


def texts_of(lengths: Sequence[int]) -> list[str]:
    """Return random texts with these numbers of tokens, the two special tokens included."""
    draw = np.random.default_rng(7)
    return [" ".join(draw.choice(WORDS, length - 2)) for length in lengths]


def ids_of(prepared: Prepared | Failed) -> list[int]:
    """Return the token ids of a request with one text."""
    assert isinstance(prepared, Prepared)
    (tokens,) = prepared.data.sequences
    return tokens.ids.tolist()


def embeddings(outcomes: Sequence[Any]) -> np.ndarray:
    assert all(isinstance(outcome, Done) for outcome in outcomes), outcomes
    return np.stack([outcome.output["embedding"] for outcome in outcomes])


def as_prepared(engine: Engine, ids: np.ndarray) -> Prepared:
    """Return the prepared request of a text that is tokenized already."""
    parameters = TASKS[engine.info.task].read_parameters({})
    return Prepared(len(ids), TextRequest(parameters, [""], [Tokens(ids)]))


def run_tokens(engine: Engine, settings: ModelSettings, texts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the (texts, width) embeddings or scores of texts that are tokenized already."""
    outcomes = run_prepared(engine, settings, [as_prepared(engine, ids) for ids in texts])
    assert not any(isinstance(outcome, Failed) for outcome in outcomes), outcomes
    outputs = [outcome.output for outcome in outcomes]
    return np.array(
        [output["embedding"] if "embedding" in output else list(output["scores"].values()) for output in outputs]
    )


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest distance of a vector from the expected one, relative to the length of the latter."""
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())
