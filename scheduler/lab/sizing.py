"""How large a batch pays, how large a batch fits, and what is padded to what."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from statistics import median
from typing import Any, TypeVar

from scheduler.core.planning import bucket_length

T = TypeVar("T", bound=Sized)
#: Timed calls of each batch size, and those before them that are not counted.
TIMED, WARM = 5, 2


def calculate_arithmetic_intensity_with_batch(batch_size: int, model_memory_bytes: float) -> float:
    """FLOP per byte read from memory in one decoding step: ``2 x batch_size``.

    Each byte of the weights (one parameter, in 8 bits) is read once a step and multiplied and added once for each
    sequence, so the model's size cancels out. Raises `ValueError` for a batch or a model of no size.
    """
    if batch_size < 1 or not model_memory_bytes > 0:
        raise ValueError("takes a batch of 1 or more and a model of more than 0 bytes")
    flop = 2.0 * batch_size * model_memory_bytes
    return flop / model_memory_bytes


def optimal_batch_size(memory_budget: float, model_memory: float, kv_cache_per_token: float, max_seq_len: int) -> int:
    """The most sequences of full length whose cache fits beside the model; 0 where not even one does.

    All sizes in the same unit. Raises `ValueError` for a negative size, and for sequences that need no memory at all,
    since memory then bounds nothing.
    """
    if memory_budget < 0 or model_memory < 0:
        raise ValueError("memory_budget and model_memory take 0 or more")
    if not (kv_cache_per_token > 0 and max_seq_len > 0):
        raise ValueError("kv_cache_per_token and max_seq_len take more than 0")
    return max(0, int((memory_budget - model_memory) // (kv_cache_per_token * max_seq_len)))


def bucket_sequences(sequences: Sequence[T], bucket_sizes: Sequence[int]) -> dict[int, list[T]]:
    """Each sequence under the smallest bucket that holds it, in the order given; longer ones under their own length.

    Every bucket is there, empty or not. By the rule of strategy ``bucket``. Raises `ValueError` for a size below 1.
    """
    buckets = sorted(set(bucket_sizes))
    if buckets and buckets[0] < 1:
        raise ValueError(f"bucket sizes are lengths of 1 or more, not {buckets[0]}")
    groups: dict[int, list[T]] = {size: [] for size in buckets}
    for sequence in sequences:
        groups.setdefault(bucket_length(len(sequence), buckets), []).append(sequence)
    return groups


def find_optimal_batch_size(
    model: Callable[[Any], Any], input_shape: Sequence[int], max_batch: int = 256
) -> list[dict[str, float]]:
    """Time ``model`` on batches of 1, 2, 4, ... ``max_batch`` random inputs of ``input_shape``, until memory is out.

    Returns for each size that ran ``batch_size, throughput`` (inputs a second)``, latency_ms`` (median of a call)
    ``, latency_per_sample`` (milliseconds). Runs where the model's parameters are, in their type. Raises `ValueError`
    for a ``max_batch`` below 1; needs torch.
    """
    import torch

    if max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}; it takes 1 or more")
    parameters = getattr(model, "parameters", tuple)
    like = next(iter(parameters()), torch.empty(0))
    results: list[dict[str, float]] = []
    with torch.inference_mode():
        for batch_size in _doubling(max_batch):
            try:
                inputs = torch.randn((batch_size, *input_shape), dtype=like.dtype, device=like.device)
                call_s = _median_call_s(model, inputs, torch.cuda.synchronize if like.is_cuda else _nothing)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                break
            results.append({
                "batch_size": batch_size, "throughput": batch_size / call_s,
                "latency_ms": call_s * 1e3, "latency_per_sample": call_s * 1e3 / batch_size,
            })  # fmt: skip
    return results


def _doubling(most: int) -> list[int]:
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == most else [*sizes, most]


def _median_call_s(model: Callable[[Any], Any], inputs: Any, synchronize: Callable[[], None]) -> float:
    calls_s = []
    for _ in range(WARM + TIMED):
        begin_s = time.perf_counter()
        model(inputs)
        synchronize()
        calls_s.append(time.perf_counter() - begin_s)
    return max(median(calls_s[WARM:]), 1e-9)


def _is_out_of_memory(error: Exception) -> bool:
    # On CUDA it has a class of its own; the allocator of the CPU says it in words.
    is_said = "out of memory" in str(error).lower() or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or is_said


def _nothing() -> None:
    """A CPU has finished when a call returns."""
