"""Loads a model for the generate engine: weights, cache, slots and tokenizer, with a check of its logits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windrow.errors import ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.worker.engines.device.weights import Weights, load_weights, pick_device, pick_dtype
from windrow.worker.engines.generation.constraints import SchemaCompiler
from windrow.worker.engines.generation.fused_linear import cache_rotary, fuse_linears
from windrow.worker.engines.generation.inputs import PromptPreparer
from windrow.worker.engines.generation.kv_cache import CacheShape, PagedCache, cache_pages
from windrow.worker.engines.generation.sampling import SlotSampling
from windrow.worker.engines.generation.slots import PromptChunk, Slots
from windrow.worker.engines.text.self_check import relative_difference

log = logging.getLogger(__name__)
#: The check reads a first prompt chunk, a second chunk that continues it, and then decodes some tokens.
CHECKED_TOKENS = (21, 12, 4)
#: Largest relative difference of logits that counts as rounding. Rounding adds up over the layers: with 22 layers in
#: bfloat16, two correct computations differ by 0.02 to 0.03. A wrong one differs by about 1.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 8e-2, torch.float16: 8e-2}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to generate."""

    slots: Slots
    sampling: SlotSampling
    prompts: PromptPreparer
    eos_ids: frozenset[int]
    #: Maximum tokens of prompt and new tokens together.
    context_tokens: int
    is_captured: bool
    #: Difference of the logits from those of the model without a cache.
    relative_error: float


def load_model(name: str, settings: ModelSettings) -> LoadedModel:
    """Load and check a model. Raises `ModelUnusable` if it cannot be served through a paged cache."""
    folder = resolve_source(settings.source)
    limit = load_text_limit(settings.source, settings.max_input_tokens)
    device = pick_device()
    dtype = pick_dtype(settings.dtype, device)
    weights = load_weights(folder, "AutoModelForCausalLM", dtype, device)
    module: Any = weights.module
    config = module.config.get_text_config()
    if reason := _reason_not_to_page(config, limit.max_input_tokens):
        raise ModelUnusable(f"model {name!r}: {reason}")
    shape = CacheShape.of(config, dtype)
    pages = cache_pages(
        shape, settings.page_tokens, limit.max_input_tokens, settings.max_batch_size, settings.cache_tokens, device
    )
    context_tokens = min(limit.max_input_tokens, pages * settings.page_tokens)
    if context_tokens < 2:
        raise ModelUnusable(
            f"model {name!r}: a context of {context_tokens} tokens has no room for a prompt and a new token"
        )
    cache = PagedCache(shape, pages, settings.page_tokens, device)
    size = 1 if settings.strategy == "none" else settings.max_batch_size
    slots, error = _checked_slots(name, weights, cache, size, context_tokens, compiled=settings.compile)
    eos_ids = _eos_ids(module)
    schemas = SchemaCompiler(limit.tokenizer, config.vocab_size, eos_ids)
    return LoadedModel(
        slots=slots,
        sampling=SlotSampling(settings.max_batch_size + 1, config.vocab_size, sorted(eos_ids), device),
        prompts=PromptPreparer(limit, folder, context_tokens, settings.page_tokens, schemas),
        eos_ids=eos_ids,
        context_tokens=context_tokens,
        is_captured=slots.is_captured,
        relative_error=error,
    )


def _checked_slots(
    name: str, weights: Weights, cache: PagedCache, size: int, context_tokens: int, *, compiled: bool
) -> tuple[Slots, float]:
    """Return slots whose logits agree with the model's, and the difference; on CUDA with kernels and graphs."""
    module: Any = weights.module
    device = cache.keys.device
    ids = checked_ids(module.config.get_text_config().vocab_size, context_tokens)
    with torch.inference_mode():
        module.config._attn_implementation = weights.padded_attention
        expected = module(input_ids=torch.from_numpy(ids)[None].to(device), use_cache=False).logits[0]
    if device.type == "cuda":
        # Imported here: builds of torch without CUDA have no Triton.
        from windrow.worker.engines.generation.cuda import CudaSlots

        fuse_linears(module)
        cache_rotary(module)
        for is_compiled in [True, False] if compiled else [False]:
            try:
                captured = CudaSlots(module, cache, size, context_tokens, compiled=is_compiled)
                return captured, _check(name, captured, ids, expected)
            except Exception as error:  # The model can still be served without graphs.
                log.warning(
                    "model %s: steps cannot be captured as CUDA graphs (compiled: %s): %s", name, is_compiled, error
                )
    slots = Slots(module, cache, size, context_tokens)
    return slots, _check(name, slots, ids, expected)


def _reason_not_to_page(config: Any, context_tokens: int) -> str | None:
    """Return the part of a model's configuration that attention over pages does not support, or None."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds and not (kinds == {"sliding_attention"} and getattr(config, "sliding_window", None) is None):
        return f"its layers are of the kinds {', '.join(sorted(kinds))}; only full attention can be served"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < context_tokens:
        return f"its attention has a sliding window of {window} tokens; set max_input_tokens to at most that"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention caps logits, which cannot be served"
    if not hasattr(config, "num_attention_heads") or not hasattr(config, "vocab_size"):
        return "it is not a text decoder"
    return None


def _eos_ids(module: Any) -> frozenset[int]:
    """Return the end tokens in the model's generation settings."""
    ids = getattr(module.generation_config, "eos_token_id", None)
    if ids is None:
        ids = module.config.get_text_config().eos_token_id
    return frozenset([ids] if isinstance(ids, int) else ids or ())


def checked_ids(vocabulary: int, context_tokens: int) -> NDArray[np.int64]:
    """Return the tokens of the check, which are random and always the same."""
    return np.random.default_rng(0).integers(0, vocabulary, min(sum(CHECKED_TOKENS), context_tokens))


def _check(name: str, slots: Slots, ids: NDArray[np.int64], expected: Tensor) -> float:
    """Read and decode ``ids`` through the cache; return the relative difference of the logits from ``expected``.

    Raises `ModelUnusable` if the difference is more than rounding.
    """
    count = len(ids)
    first = min(CHECKED_TOKENS[0], count - 1)
    second = min(CHECKED_TOKENS[1], count - first)
    kind = type(slots.module).__name__
    # In reverse order, because a page table that is ignored would give the first pages in order.
    pages = list(range(-(-count // slots.cache.page_tokens)))[::-1]
    with torch.inference_mode():
        try:
            slots.set_pages([0], [0] * len(pages), range(len(pages)), pages)
            logits = [slots.read([PromptChunk(0, ids[:first].tolist(), 0)])[0].clone()]
            logits.append(slots.read([PromptChunk(0, ids[first : first + second].tolist(), first)])[0].clone())
            places = [first - 1, first + second - 1]
            for place in range(first + second, count):
                slots.tokens[0] = int(ids[place])
                logits.append(slots.decode([0])[0].clone())
                places.append(place)
        except NotImplementedError as error:
            raise ModelUnusable(f"model {name!r}: {kind}: {error}") from error
        difference = relative_difference(torch.cat(logits), expected[places])
    if not difference <= TOLERANCES[slots.cache.keys.dtype]:
        raise ModelUnusable(
            f"model {name!r}: {kind} gives other logits through a paged cache (they differ by {difference:.1e}); "
            "it cannot be served"
        )
    return difference
