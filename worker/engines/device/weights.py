"""Weights in memory: safetensors only, loaded once a process and shared by every model entry that names them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from windrow.errors import ModelUnusable

#: How the classes of architectures end that have the head of an auto class. Heads of other tasks may fit its tensors.
HEADS = {
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """One loaded model, in eval mode on its device."""

    module: nn.Module
    #: The attention transformers chose for it; what padded passes use.
    padded_attention: str
    #: Where position ids count from this id + 1 and skip it (RoBERTa and its kin); None where they count from 0.
    position_pad_id: int | None
    pad_id: int
    #: Tokens that its position table has room for; None where it has none.
    positions: int | None = None


def pick_device() -> torch.device:
    """CUDA where there is some, else the CPU. Call it in the pool process only: it may initialise CUDA."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(wish: str, device: torch.device) -> torch.dtype:
    """``wish`` is the setting; "auto" is bfloat16 on CUDA and float32 on the CPU.

    Raises `ModelUnusable` for int8 on another device than the CPU.
    """
    if wish == "int8" and device.type != "cpu":
        raise ModelUnusable(f"dtype int8 runs on a CPU; on {device.type} take auto, bfloat16, float16 or float32")
    if wish == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, wish)
    assert isinstance(dtype, torch.dtype)
    return dtype


@cache
def load_weights(folder: Path, auto_class: str, dtype: torch.dtype, device: torch.device) -> Weights:
    """Load ``folder`` with ``transformers.<auto_class>``; a second call with the same arguments shares the first's.

    Raises `ModelUnusable` where there is no safetensors file, or the files are of another task or damaged.
    ``load_weights.cache_clear()`` makes the next call read the files again.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelUnusable(
            f"{folder}: no *.safetensors file; Windrow never reads pickled weights. "
            "Convert with model.save_pretrained(folder) and serve that folder"
        )
    transformers.utils.logging.disable_progress_bar()  # a log file is no place for one
    try:
        module, report = getattr(transformers, auto_class).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelUnusable(f"{folder}: {auto_class} cannot load it: {_fault(error)}") from error
    config = module.config
    made, head = config.architectures or [], HEADS.get(auto_class, "")
    if made and not any(name.endswith(head) for name in made):
        raise ModelUnusable(
            f"{folder / 'config.json'}: {', '.join(made)} is a model of another task; this one takes a ...{head}"
        )
    # transformers fills what is missing with random numbers. Only the pooler may be missing, and only where its
    # output is not used: sentence-transformers checkpoints often leave it out.
    missing = [key for key in report["missing_keys"] if auto_class != "AutoModel" or "pooler" not in key]
    if missing:
        raise ModelUnusable(
            f"{folder}: the files lack {len(missing)} tensors that {auto_class} needs "
            f"({', '.join(sorted(missing)[:3])}); is it a model of another task?"
        )
    position_pad_id, positions = _position_table(module)
    return Weights(
        module=module.eval().requires_grad_(False).to(device),
        padded_attention=config._attn_implementation,
        position_pad_id=position_pad_id,
        pad_id=config.pad_token_id if isinstance(config.pad_token_id, int) else 0,
        positions=positions,
    )


def _fault(error: Exception) -> str:
    """What transformers says, without advice that Windrow has no setting for."""
    said = str(error)
    if "trust_remote_code" in said:
        return "it needs code of its own, which Windrow does not run"
    return "the weights do not fit config.json" if "ignore_mismatched_sizes" in said else said


def read_labels(config: Any, folder: Path) -> list[str]:
    """The labels by number; raises `ModelUnusable` where ``id2label`` leaves one out."""
    count = config.num_labels
    gap = next((index for index in range(count) if index not in config.id2label), None)
    if gap is not None:
        raise ModelUnusable(f"{folder / 'config.json'}: id2label has {count} labels, and none of number {gap}")
    return [str(config.id2label[index]) for index in range(count)]


def distinguishes_texts(module: nn.Module, folder: Path) -> bool:
    """Whether the model is told which text of a pair each token is of.

    It has to have types of tokens, and to take them, and its tokenizer has to be one that transformers asks for them.
    """
    types = getattr(module.config, "type_vocab_size", None) or 0
    if types < 2 or "token_type_ids" not in inspect.signature(module.forward).parameters:
        return False
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return "token_type_ids" in tokenizer.model_input_names


def require_positions(weights: Weights, max_tokens: int) -> None:
    """Raise `ModelUnusable` where inputs of ``max_tokens`` do not fit into the position table."""
    if weights.positions is not None and max_tokens > weights.positions:
        raise ModelUnusable(
            f"inputs of {max_tokens} tokens are more than the {weights.positions} that the model's position table has "
            f"room for; set max_input_tokens = {weights.positions}, or lower"
        )


def _position_table(module: nn.Module) -> tuple[int | None, int | None]:
    """The padding row and the room of the position table, in tokens.

    A table with a padding row belongs to a model that counts positions past that row.
    """
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            pad = part.padding_idx
            return pad, part.num_embeddings - (0 if pad is None else pad + 1)
    return None, None
