"""Llamas with random weights for measuring text generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Shapes of Llamas with random weights: ``1b`` for a GPU, ``small`` for a CPU.
SHAPES: dict[str, dict[str, int]] = {
    "1b": {
        "vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    },
    "small": {
        "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    },
}  # fmt: skip


def make_llama(folder: Path, shape: str) -> Path:
    """Save a Llama of one of the `SHAPES` with random weights, and a tokenizer with one token per word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = SHAPES[shape]
    cuda = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if cuda else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**sizes, eos_token_id=2, bos_token_id=1))
    model.to(torch.bfloat16 if cuda else torch.float32).save_pretrained(folder)
    words = {f"w{number}": number for number in range(sizes["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
