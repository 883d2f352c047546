"""On a CUDA device, every strategy gives the outputs of transformers for each text alone.

The families, lengths and tolerances are those of `tests.integration.engines.test_engine_families` for the CPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version

from tests.support.tiny_models import (
    BUCKETS,
    FAMILIES,
    LENGTHS,
    LIMIT,
    TOLERANCES,
    TinyModels,
    as_prepared,
    largest_error,
    run_tokens,
    token_ids,
)
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import Batch, plan_batches
from windrow.worker.engines.loading import batch_limits, load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels(tmp_path_factory.mktemp)


def settings_for(models: TinyModels, family: str, task: str = "embed", **more: object) -> ModelSettings:
    few = {"buckets": BUCKETS, "max_batch_size": 5, "max_batch_tokens": 512, "compile": False}
    return ModelSettings.model_validate(
        {"task": task, "source": str(models.folder(family, task)), **few} | more,
    )


def can_be_captured(family: str) -> bool:
    """Return whether padded batches can be captured; older releases of transformers prevent it for MPNet."""
    return family != "mpnet" or Version(transformers.__version__) >= Version("5.22")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("strategy", ["static", "dynamic", "bucket", "packed"])
@pytest.mark.parametrize("task", ["embed", "classify"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_gives_the_outputs_of_transformers(
    models: TinyModels, family: str, task: str, strategy: str, dtype: str
) -> None:
    settings = settings_for(models, family, task, strategy=strategy, dtype=dtype)
    engine = load_engine("tiny", settings)
    expected = models.one_by_one(family, task, dtype, "cuda")
    assert largest_error(run_tokens(engine, settings, token_ids()), expected) < TOLERANCES[dtype]
    falls_back = strategy == "packed" and FAMILIES[family].own_attention is not None
    assert engine.info.strategy == ("bucket" if falls_back else strategy)
    # The kernel of packed batches takes half precision only.
    is_captured = {"bucket": can_be_captured(family), "packed": dtype != "float32"}
    assert engine.info.is_captured == is_captured.get(engine.info.strategy, False)


@pytest.mark.parametrize("family", FAMILIES)
def test_replays_in_any_order_do_not_affect_each_other(models: TinyModels, family: str) -> None:
    settings = settings_for(models, family, strategy="bucket", dtype="float32")
    engine = load_engine("replayed", settings)
    draw = np.random.default_rng(3)
    expected = dict(zip(LENGTHS, models.one_by_one(family, "embed", "float32", "cuda"), strict=True))
    texts = dict(zip(LENGTHS, token_ids(), strict=True))
    for _ in range(20):
        lengths = draw.choice(LENGTHS, draw.integers(1, 20)).tolist()
        found = run_tokens(engine, settings, [texts[length] for length in lengths])
        assert largest_error(found, np.stack([expected[length] for length in lengths])) < 1e-5, lengths


def test_planned_batches_have_captured_sizes(models: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(models, "deberta-v2", strategy="packed", dtype="bfloat16")
    engine = load_engine("fallback", settings)
    monkeypatch.setattr(engine._forward, "split_padded", None)  # a batch without a graph raises
    assert np.isfinite(run_tokens(engine, settings, token_ids())).all()
    tokens = [batch.tokens for batch in plan_batches("bucket", [10] * 5 + [40], batch_limits(settings, engine.info))]
    assert tokens == [5 * 16, LIMIT]


def test_a_batch_without_a_captured_size_still_runs(models: TinyModels) -> None:
    settings = settings_for(models, "mpnet", strategy="bucket", dtype="float32", buckets=(16, 32))
    engine = load_engine("beyond", settings)
    expected = models.one_by_one("mpnet", "embed", "float32", "cuda")
    assert largest_error(run_tokens(engine, settings, token_ids()), expected) < 1e-5
    (ids,) = token_ids([20])
    (outcome,) = engine.collect(engine.forward([as_prepared(engine, ids)], Batch((0,), 16, 16, 20)))
    assert np.isfinite(outcome.output["embedding"]).all()
