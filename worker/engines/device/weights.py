"""Loading of weights: safetensors only, once per process, shared by all models of the same source."""

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

#: Auto class -> end of the names of its architectures. Checked, because the tensors of another task's head may fit.
HEADS = {
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """One loaded model, in eval mode on its device."""

    module: nn.Module
    #: The attention that transformers chose for it; padded batches use it.
    padded_attention: str
    #: In RoBERTa and models like it, position ids start at this id + 1 and skip padding; None if they start at 0.
    position_pad_id: int | None
    pad_id: int
    #: Longest sequence that the position table allows, in tokens; None if the model has no such table.
    positions: int | None = None


def pick_device() -> torch.device:
    """Return CUDA if available, else the CPU. Call this in the pool process only, because it may initialize CUDA."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a ``dtype`` setting; "auto" is bfloat16 on CUDA and float32 on the CPU.

    Raises `ModelUnusable` for int8 on any device but the CPU.
    """
    if name == "int8" and device.type != "cpu":
        raise ModelUnusable(f"dtype int8 runs on a CPU; on {device.type} set auto, bfloat16, float16 or float32")
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


@cache
def load_weights(folder: Path, auto_class: str, dtype: torch.dtype, device: torch.device) -> Weights:
    """Load ``folder`` with ``transformers.<auto_class>``; the same arguments return the same object again.

    Raises `ModelUnusable` if there is no safetensors file, or if the files are damaged or of another task. Call
    ``load_weights.cache_clear()`` to read the files again.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelUnusable(
            f"{folder}: no *.safetensors file; Windrow never reads pickled weights. "
            "Convert with model.save_pretrained(folder) and serve that folder"
        )
    transformers.utils.logging.disable_progress_bar()  # it would fill log files
    try:
        module, report = getattr(transformers, auto_class).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelUnusable(f"{folder}: {auto_class} cannot load it: {_reason(error)}") from error
    config = module.config
    names, head = config.architectures or [], HEADS.get(auto_class, "")
    if names and not any(name.endswith(head) for name in names):
        raise ModelUnusable(
            f"{folder / 'config.json'}: {', '.join(names)} is a model of another task; this task takes a ...{head}"
        )
    # transformers fills missing tensors with random numbers. Only the pooler may be missing, and only if its output is
    # not used: checkpoints of sentence-transformers often lack it.
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


def _reason(error: Exception) -> str:
    """Return the message of an error of transformers, without advice about options that Windrow does not have."""
    message = str(error)
    if "trust_remote_code" in message:
        return "the model needs Python code from its own files, which Windrow does not run"
    return "the weights do not fit config.json" if "ignore_mismatched_sizes" in message else message


def read_labels(config: Any, folder: Path) -> list[str]:
    """Return the labels in order of their index; raise `ModelUnusable` if ``id2label`` lacks one."""
    count = config.num_labels
    gap = next((index for index in range(count) if index not in config.id2label), None)
    if gap is not None:
        raise ModelUnusable(f"{folder / 'config.json'}: id2label has {count} labels, but none for index {gap}")
    return [str(config.id2label[index]) for index in range(count)]


def distinguishes_texts(module: nn.Module, folder: Path) -> bool:
    """Return whether the model reads token types, which tell the two texts of a pair apart.

    It must have at least two types and an argument for them, and its tokenizer must return them in transformers.
    """
    types = getattr(module.config, "type_vocab_size", None) or 0
    if types < 2 or "token_type_ids" not in inspect.signature(module.forward).parameters:
        return False
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return "token_type_ids" in tokenizer.model_input_names


def require_positions(weights: Weights, max_tokens: int) -> None:
    """Raise `ModelUnusable` if inputs of ``max_tokens`` do not fit into the position table."""
    if weights.positions is not None and max_tokens > weights.positions:
        raise ModelUnusable(
            f"max_input_tokens {max_tokens} is more than the {weights.positions} tokens of the model's position table; "
            f"set max_input_tokens = {weights.positions} or less"
        )


def _position_table(module: nn.Module) -> tuple[int | None, int | None]:
    """Return the padding row of the position table and the longest sequence that the table allows, in tokens.

    If the table has a padding row, the model counts positions from the row after it.
    """
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            pad = part.padding_idx
            return pad, part.num_embeddings - (0 if pad is None else pad + 1)
    return None, None
