"""Every strategy gives the outputs of transformers for each text alone, for six families, two tasks and two dtypes."""

from __future__ import annotations

import pytest

from tests.support.tiny_models import (
    BUCKETS,
    FAMILIES,
    LIMIT,
    STRATEGIES,
    TOLERANCES,
    TinyModels,
    largest_error,
    run_tokens,
    token_ids,
)
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.engines.loading import load_engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("task", ["embed", "classify"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_gives_the_outputs_of_transformers(
    tiny_models: TinyModels, family: str, task: str, strategy: str, dtype: str
) -> None:
    settings = ModelSettings(
        task=task, source=str(tiny_models.folder(family, task)), strategy=strategy, dtype=dtype, buckets=BUCKETS,
        max_batch_size=4,
    )  # fmt: skip
    engine = load_engine("tiny", settings)
    expected = tiny_models.one_by_one(family, task, dtype)
    assert largest_error(run_tokens(engine, settings, token_ids()), expected) < TOLERANCES[dtype]
    assert (engine.info.dtype, engine.info.dtype_note, engine.info.max_input_tokens) == (dtype, None, LIMIT)
    own_attention = FAMILIES[family].own_attention
    if strategy == "packed" and own_attention:
        assert engine.info.strategy == "bucket"
        assert f"{own_attention}" in engine.info.strategy_note
        assert "has an attention of its own" in engine.info.strategy_note
    else:
        assert (engine.info.strategy, engine.info.strategy_note) == (strategy, None)
