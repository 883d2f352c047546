"""Batch sizing: arithmetic intensity, the batch that fits the memory, buckets, and the throughput of batch sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from fractions import Fraction
from statistics import median
from typing import Any, TypeVar

from windrow.lab.primitives.amounts import count, size
from windrow.scheduler.core.planning import bucket_length

T = TypeVar("T", bound=Sized)
#: Calls of each batch size that are timed, after those that only warm up.
TIMED_CALLS, WARMUP_CALLS = 5, 2


def calculate_arithmetic_intensity_with_batch(batch_size: int, model_memory_bytes: float) -> float:
    """Return the FLOPs per byte read from memory in one decode step: ``2 * batch_size``.

    Each byte of the weights (one 8-bit parameter) is read once per step, and multiplied and added once for each
    sequence, so that the model's size cancels out. Raises `ValueError` if either argument is not positive and finite.
    """
    size("model_memory_bytes", model_memory_bytes)
    return 2.0 * count("batch_size", batch_size, 1)


def optimal_batch_size(memory_budget: float, model_memory: float, kv_cache_per_token: float, max_seq_len: int) -> int:
    """Return how many sequences of ``max_seq_len`` tokens have a KV cache that fits beside the model; 0 if none does.

    All sizes are in the same unit. The arithmetic is exact for decimal fractions: a budget of 80 holds 100 sequences of
    8 tokens with 0.1 per token. Raises `ValueError` if a size is negative or not finite, or if ``kv_cache_per_token``
    or ``max_seq_len`` is 0, because then memory does not limit the batch.
    """
    cache_budget = _exact(size("memory_budget", memory_budget, may_be_0=True)) - _exact(
        size("model_memory", model_memory, may_be_0=True)
    )
    sequence = _exact(size("kv_cache_per_token", kv_cache_per_token)) * count("max_seq_len", max_seq_len, 1)
    return max(0, int(cache_budget // sequence))


def bucket_sequences(sequences: Iterable[T], bucket_sizes: Iterable[int]) -> dict[int, list[T]]:
    """Return bucket -> sequences, each sequence in the smallest bucket that holds it, in the given order.

    A sequence longer than all buckets is under its own length. Empty buckets are included. This is the rule of strategy
    ``bucket``. Raises `ValueError` if a bucket is not a whole number of at least 1.
    """
    buckets = sorted({count("a bucket", bucket, 1) for bucket in bucket_sizes})
    groups: dict[int, list[T]] = {bucket: [] for bucket in buckets}
    for sequence in sequences:
        groups.setdefault(bucket_length(len(sequence), buckets), []).append(sequence)
    return groups


def find_optimal_batch_size(
    model: Callable[[Any], Any], input_shape: Iterable[int], max_batch: int = 256
) -> list[dict[str, float]]:
    """Time ``model`` on batches of 1, 2, 4, ... ``max_batch`` random inputs of ``input_shape``; needs torch.

    Stops when memory runs out. The inputs have the device and type of the model's parameters; if the model begins with
    an embedding, they are token IDs. Wrap a model with other inputs in a function that creates them from the batch.
    Modules are timed in evaluation mode, and their modes are restored.

    Returns for each batch size that ran ``batch_size``, ``throughput`` (inputs per second), ``latency_ms`` (median of
    one call) and ``latency_per_sample`` (milliseconds). Raises `ValueError` if ``max_batch`` or a dimension is not a
    whole number of at least 1.
    """
    import torch

    from windrow.lab.primitives.trial_inputs import draw_inputs, evaluating

    shape = [count("a dimension of input_shape", length, 1) for length in input_shape]
    results: list[dict[str, float]] = []
    with torch.inference_mode(), evaluating(model):
        for batch_size in _doubling(count("max_batch", max_batch, 1)):
            try:
                call_s = _median_call_s(model, draw_inputs(model, (batch_size, *shape)), _synchronize)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
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
    for _ in range(WARMUP_CALLS + TIMED_CALLS):
        begin_s = time.perf_counter()
        model(inputs)
        synchronize()
        calls_s.append(time.perf_counter() - begin_s)
    return max(median(calls_s[WARMUP_CALLS:]), 1e-9)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a call of a model failed because memory ran out."""
    # torch has a class for CUDA; its CPU allocator raises a RuntimeError with one of these messages.
    has_message = "out of memory" in str(error).lower() or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or has_message


def _synchronize() -> None:
    """Wait for CUDA if it was used; on a CPU, the call has finished when it returns."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _exact(amount: float) -> Fraction:
    """Return the decimal number as it is written, which the float may only approximate."""
    return Fraction(repr(amount))
