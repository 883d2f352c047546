"""Models with readable but wrong files are refused at load."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.support.tiny_models import FAMILIES, save_model
from windrow.errors import ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.engines.loading import load_engine

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path, FAMILIES["bert"].config(), AutoModelForSequenceClassification)


def load(folder: Path) -> None:
    load_engine("broken", ModelSettings(task="classify", source=str(folder)))


def test_a_model_whose_answers_are_all_nan_is_refused(folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.classifier.weight, float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(ModelUnusable, match="its answers are NaN or infinite"):
        load(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnusable, match=r"the weights do not fit config\.json"):
        load(folder)


def test_the_error_names_the_index_of_a_missing_label(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "a", "2": "c", "3": "d"}
    config["label2id"] = {"a": 0, "c": 2, "d": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnusable, match=r"config\.json: id2label has 3 labels, but none for index 1"):
        load(folder)
