"""Models and settings that cannot be served are refused at load, and batch limits fit the loaded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_models import (
    BUCKETS,
    FAMILIES,
    LIMIT,
    TinyModels,
    save_model,
    settings_for,
)
from windrow.errors import ModelUnusable
from windrow.worker.engines.base import EngineInfo
from windrow.worker.engines.device.weights import require_positions
from windrow.worker.engines.loading import batch_limits, load_engine


def test_a_limit_above_the_position_table_is_refused_with_the_value_to_set(tiny_models: TinyModels) -> None:
    weights = load_engine("tiny", settings_for(tiny_models.folder("bert", "embed")))._forward.weights
    require_positions(weights, LIMIT)
    with pytest.raises(ModelUnusable, match=f"set max_input_tokens = {LIMIT}"):
        require_positions(weights, LIMIT + 1)


def info_of(max_input_tokens: int, **more: Any) -> EngineInfo:
    return EngineInfo("tiny", "embed", "packed", None, "cpu", "float32", max_input_tokens, **more)


def test_captured_batches_are_planned_in_the_captured_sizes() -> None:
    settings = settings_for("anywhere", max_batch_tokens=1000)
    assert batch_limits(settings, info_of(30)).rungs == ()
    assert batch_limits(settings, info_of(30, is_captured=True)).rungs == (64, 128, 256, 512, 1000)


def test_batch_limits_never_exceed_the_limit_of_the_model() -> None:
    settings = settings_for("anywhere", max_batch_tokens=1000)
    limits = batch_limits(settings, info_of(30))
    assert (limits.buckets, limits.static_length, limits.max_batch_size) == ((16, 30), 30, 4)
    assert batch_limits(settings, info_of(300)).buckets == BUCKETS


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelUnusable, match="safetensors"):
        load_engine("pickled", settings_for(folder))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelUnusable, match="cannot load"):
        load_engine("damaged", settings_for(folder))


def test_an_encoder_without_a_classification_head_is_refused(tiny_models: TinyModels) -> None:
    with pytest.raises(ModelUnusable, match="another task"):
        load_engine("headless", settings_for(tiny_models.folder("bert", "embed"), "classify"))


def test_a_limit_without_room_for_special_tokens_is_refused(tiny_models: TinyModels) -> None:
    with pytest.raises(ModelUnusable, match="special tokens"):
        load_engine("tight", settings_for(tiny_models.folder("bert", "embed"), max_input_tokens=2))


def test_an_unsupported_module_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelUnusable, match="Dense"):
        load_engine("dense", settings_for(folder))
