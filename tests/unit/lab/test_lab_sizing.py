"""Batch sizing: results calculated by hand, and timing of models."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from windrow.lab import (
    bucket_sequences,
    calculate_arithmetic_intensity_with_batch,
    find_optimal_batch_size,
    optimal_batch_size,
)


def test_arithmetic_intensity_is_twice_the_batch_size_for_any_model() -> None:
    assert [calculate_arithmetic_intensity_with_batch(size, 14e9) for size in (1, 32)] == [2.0, 64.0]
    assert calculate_arithmetic_intensity_with_batch(1000, 1e308) == 2000.0


@pytest.mark.parametrize(
    ("size", "model_bytes", "message"),
    [
        (0, 14e9, "batch_size is 0"),
        (math.nan, 14e9, "batch_size is nan"),
        (10**400, 14e9, "batch_size is 10+; it must be a whole number from 1"),
        (1, 0, "model_memory_bytes is 0; it must be finite and more than 0"),
        (1, math.nan, "model_memory_bytes is nan"),
        (1, math.inf, "model_memory_bytes is inf"),
    ],
)
def test_arithmetic_intensity_refuses_an_empty_batch_or_model(size, model_bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calculate_arithmetic_intensity_with_batch(size, model_bytes)


def test_the_batch_fills_the_memory_that_the_model_does_not_use() -> None:
    assert optimal_batch_size(80e9, 14e9, 0.5e6, 4096) == 32  # 66 GB divided by 2.048 GB per sequence
    assert optimal_batch_size(10e9, 14e9, 0.5e6, 4096) == 0


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 9999), st.integers(0, 9999))
def test_the_maximum_number_of_sequences_is_exact_despite_rounding_of_floats(
    fits: int, length: int, token: int, model: int
) -> None:
    # The sizes are thousandths, which floats cannot represent exactly.
    budget = float(f"{fits * length * token + model}e-3")
    assert optimal_batch_size(budget, float(f"{model}e-3"), float(f"{token}e-3"), length) == fits


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((math.nan, 0, 1, 1), "memory_budget is nan; it must be finite and 0 or more"),
        ((math.inf, 0, 1, 1), "memory_budget is inf"),
        ((1, -1, 1, 1), "model_memory is -1"),
        ((1, math.nan, 1, 1), "model_memory is nan"),
        ((1, 0, 0, 1), "kv_cache_per_token is 0; it must be finite and more than 0"),
        ((1, 0, math.inf, 1), "kv_cache_per_token is inf"),
        ((1, 0, 1, 0), "max_seq_len is 0; it must be a whole number from 1"),
        ((1, 0, 1, math.nan), "max_seq_len is nan"),
    ],
)
def test_sizes_that_do_not_limit_the_batch_are_refused_by_name(sizes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimal_batch_size(*sizes)


def test_sequences_are_assigned_to_the_smallest_bucket_that_fits() -> None:
    sequences = ["a", "abcd", "", "abcdefg", "ab"]
    assert bucket_sequences(sequences, [4, 2]) == {2: ["a", "", "ab"], 4: ["abcd"], 7: ["abcdefg"]}
    assert bucket_sequences([], [8]) == {8: []}
    assert bucket_sequences(iter(sequences), iter([4, 2])) == bucket_sequences(sequences, [4, 2])


@pytest.mark.parametrize("bucket", [0, -4, 2.5, math.nan])
def test_a_bucket_that_is_not_a_positive_whole_number_is_refused(bucket) -> None:
    with pytest.raises(ValueError, match=r"a bucket is .*; it must be a whole number from 1"):
        bucket_sequences(["a"], [8, bucket])


def test_batch_sizes_double_up_to_max_batch() -> None:
    results = find_optimal_batch_size(torch.nn.Linear(4, 2), (4,), max_batch=6)
    assert [result["batch_size"] for result in results] == [1, 2, 4, 6]
    for result in results:
        assert result["throughput"] == pytest.approx(result["batch_size"] / result["latency_ms"] * 1e3)
        assert result["latency_per_sample"] == pytest.approx(result["latency_ms"] / result["batch_size"])


def test_timing_restores_the_mode_of_the_model() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    model[1].eval()
    before, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    find_optimal_batch_size(model, (4,), max_batch=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), numbers)


def test_the_modes_of_a_model_that_fails_are_restored() -> None:
    model = torch.nn.Linear(4, 2)
    with pytest.raises(RuntimeError):
        find_optimal_batch_size(model, (3,))
    assert model.training


def test_a_model_that_starts_with_an_embedding_gets_token_ids() -> None:
    batches: list[torch.Tensor] = []

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = torch.nn.Embedding(11, 4), torch.nn.Linear(4, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            batches.append(ids)
            return self.head(self.words(ids)).mean(1)

    assert len(find_optimal_batch_size(Text(), (7,), max_batch=2)) == 2
    assert {tuple(ids.shape) for ids in batches} == {(1, 7), (2, 7)}
    assert all(ids.dtype == torch.int64 and ids.min() >= 0 and ids.max() < 11 for ids in batches)


@pytest.mark.parametrize(("shape", "most"), [((4,), 0), ((4,), math.nan), ((0,), 1), ((2.5,), 1), ((math.nan,), 1)])
def test_an_empty_batch_or_shape_is_refused(shape, most) -> None:
    with pytest.raises(ValueError, match=r"(max_batch|a dimension of input_shape) is .*; it must be a whole number"):
        find_optimal_batch_size(torch.nn.Linear(4, 2), shape, most)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no more"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_the_search_stops_when_memory_runs_out(error: Exception) -> None:
    def model(inputs: torch.Tensor) -> None:
        if len(inputs) > 2:
            raise error

    assert [result["batch_size"] for result in find_optimal_batch_size(model, (1,))] == [1, 2]


def test_other_errors_of_the_model_are_not_treated_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        find_optimal_batch_size(torch.nn.Linear(4, 2), (3,))
