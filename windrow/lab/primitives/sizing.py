"""How large a batch pays, how large a batch fits, and what is padded to what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from fractions import Fraction
from statistics import median
from typing import Any, TypeVar

from windrow.lab.primitives.amounts import count, size
from windrow.scheduler.core.planning import bucket_length

T = TypeVar("T", bound=Sized)
#: Timed calls of each batch size, and those before them that are not counted.
TIMED, WARM = 5, 2


def calculate_arithmetic_intensity_with_batch(batch_size: int, model_memory_bytes: float) -> float:
    """FLOP per byte read from memory in one decoding step: ``2 x batch_size``.

    Each byte of the weights (one parameter, in 8 bits) is read once a step and multiplied and added once for each
    sequence, so the model's size cancels out. Raises `ValueError` for a batch or a model of no size.
    """
    size("model_memory_bytes", model_memory_bytes)
    return 2.0 * count("batch_size", batch_size, 1)


def optimal_batch_size(memory_budget: float, model_memory: float, kv_cache_per_token: float, max_seq_len: int) -> int:
    """The most sequences of full length whose cache fits beside the model; 0 where not even one does.

    All sizes in the same unit, and exact as they are written: 80 holds 100 times 8 x 0.1. Raises `ValueError` for sizes
    that are negative or not finite, and for sequences that need no memory at all, since memory then bounds nothing.
    """
    left = _exact(size("memory_budget", memory_budget, may_be_0=True)) - _exact(
        size("model_memory", model_memory, may_be_0=True)
    )
    sequence = _exact(size("kv_cache_per_token", kv_cache_per_token)) * count("max_seq_len", max_seq_len, 1)
    return max(0, int(left // sequence))


def bucket_sequences(sequences: Iterable[T], bucket_sizes: Iterable[int]) -> dict[int, list[T]]:
    """Each sequence under the smallest bucket that holds it, in the order given; longer ones under their own length.

    Every bucket is there, empty or not. By the rule of strategy ``bucket``. Raises `ValueError` for a bucket that is no
    whole number from 1.
    """
    buckets = sorted({count("a bucket", bucket, 1) for bucket in bucket_sizes})
    groups: dict[int, list[T]] = {bucket: [] for bucket in buckets}
    for sequence in sequences:
        groups.setdefault(bucket_length(len(sequence), buckets), []).append(sequence)
    return groups


def find_optimal_batch_size(
    model: Callable[[Any], Any], input_shape: Iterable[int], max_batch: int = 256
) -> list[dict[str, float]]:
    """Time ``model`` on batches of 1, 2, 4, ... ``max_batch`` random inputs of ``input_shape``, until memory is out.

    Inputs are where the model's parameters are, in their type; for a model whose first parameters are those of an
    embedding, as of text, they are its token ids. A model that takes anything else is wrapped in a function that makes
    it of the batch. Modules are timed in evaluation mode and get their modes back.

    Returns for each size that ran ``batch_size, throughput`` (inputs a second)``, latency_ms`` (median of a call)
    ``, latency_per_sample`` (milliseconds). Raises `ValueError` for a ``max_batch`` or a shape that is not of whole
    numbers from 1; needs torch.
    """
    import torch

    from windrow.lab.tune.trial_inputs import draw_inputs, evaluating

    shape = [count("a dimension of input_shape", length, 1) for length in input_shape]
    results: list[dict[str, float]] = []
    with torch.inference_mode(), evaluating(model):
        for batch_size in _doubling(count("max_batch", max_batch, 1)):
            try:
                call_s = _median_call_s(model, draw_inputs(model, (batch_size, *shape)), _synchronize)
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


def _synchronize() -> None:
    """Wait for CUDA, where anything may have run there; a CPU has finished when a call returns."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _exact(amount: float) -> Fraction:
    """The number that was written, of which a float may be a rounding away."""
    return Fraction(repr(amount))
