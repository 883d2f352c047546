"""Tasks validate and price requests before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from windrow.errors import InvalidInput
from windrow.scheduler.tasks import TASKS
from windrow.scheduler.tasks.pooling import embedding_width
from windrow.scheduler.tasks.rerank import MAX_DOCUMENTS
from windrow.scheduler.tasks.zero_shot import MAX_LABELS
from windrow.worker.engines.loading import ENGINES

LABELS = {"labels": ["hay", "rain"]}
PAIRS = {"query": "hay", "documents": ["dry", "wet"]}


def test_every_task_has_an_engine() -> None:
    assert set(ENGINES) == set(TASKS)


def texts(task: str, value: object, **parameters: Any) -> list[Any]:
    chosen = TASKS[task]
    return chosen.texts(value, chosen.read_parameters(parameters), "input")


@pytest.mark.parametrize("task", ["embed", "classify", "token-classify"])
def test_embed_and_classify_tasks_read_one_text(task: str) -> None:
    assert texts(task, "hay") == ["hay"]


def test_rerank_reads_the_query_with_each_document() -> None:
    assert texts("rerank", PAIRS) == [("hay", "dry"), ("hay", "wet")]


def test_zero_shot_reads_the_text_with_a_hypothesis_for_each_label() -> None:
    assert texts("zero-shot", "a text", **LABELS) == [
        ("a text", "This example is hay."),
        ("a text", "This example is rain."),
    ]
    assert texts("zero-shot", "a text", **LABELS, hypothesis_template="{}!")[1] == ("a text", "rain!")


def test_format_fields_in_a_template_are_plain_characters() -> None:
    template = "{0} {label.__class__} {:>99999999} {}"
    ((_, hypothesis), _) = texts("zero-shot", "a text", **LABELS, hypothesis_template=template)
    assert hypothesis == "{0} {label.__class__} {:>99999999} hay"


@pytest.mark.parametrize(
    ("task", "value", "parameters", "message"),
    [
        ("embed", 7, {}, "input: a model of task embed takes a string, not a number"),
        ("embed", "a\ud800", {}, "input: the string holds half a surrogate pair"),
        ("embed", "a", {"dimensions": 0}, "parameters.dimensions: should be greater than or equal to 1, not 0"),
        ("embed", "a", {"dimensions": 2.5}, "parameters.dimensions: should be a valid integer"),
        ("embed", "a", {"encoding_format": "int4"}, "encoding_format: should be 'float', 'base64' or 'int8'"),
        ("embed", "a", {"labels": []}, "labels: unknown parameter; accepted: truncate, dimensions, encoding_format"),
        ("classify", "a", {"dimensions": 3}, "parameters.dimensions: unknown parameter; accepted: truncate"),
        ("token-classify", None, {}, "a model of task token-classify takes a string, not null"),
        ("token-classify", "a", {"aggregation": "mean"}, "should be 'none', 'simple', 'first', 'average' or 'max'"),
        ("rerank", "hay", {}, "input: a model of task rerank takes an object with query and documents, not a string"),
        ("rerank", {"query": "hay"}, {}, "input.documents: is missing"),
        ("rerank", PAIRS | {"documents": []}, {}, "input.documents: takes at least 1, not 0"),
        ("rerank", PAIRS | {"documents": ["a", 7]}, {}, "input.documents.1: should be a valid string, not 7"),
        ("rerank", PAIRS | {"documents": ["a"] * (MAX_DOCUMENTS + 1)}, {}, "takes at most 1000, not 1001"),
        ("rerank", PAIRS | {"documents": ["a", "\udfff"]}, {}, "input.documents.1: the string holds half"),
        ("rerank", PAIRS | {"query": None}, {}, "input.query: should be a valid string, not null"),
        ("rerank", PAIRS | {"top_n": 1}, {}, "input.top_n: unknown field; accepted: query, documents"),
        ("rerank", PAIRS, {"top_n": 0}, "parameters.top_n: should be greater than or equal to 1, not 0"),
        ("zero-shot", "a", {}, "parameters.labels: is missing"),
        ("zero-shot", "a", {"labels": []}, "parameters.labels: takes at least 1, not 0"),
        ("zero-shot", "a", {"labels": ["a"] * (MAX_LABELS + 1)}, "takes at most 200, not 201"),
        ("zero-shot", "a", {"labels": ["a", ""]}, "parameters.labels.1: should have at least 1 character"),
        ("zero-shot", "a", {"labels": "a, b"}, "parameters.labels: should be a valid list, not 'a, b'"),
        ("zero-shot", "a", LABELS | {"hypothesis_template": "so"}, "hypothesis_template: takes a sentence with {}"),
        (
            "zero-shot",
            "a",
            {"labels": ["x" * 4_000_000], "hypothesis_template": "{}" * 1_000_000},
            "parameters.hypothesis_template: filled in for all labels it has 4000000000000 characters; takes at most",
        ),
        ("zero-shot", {}, LABELS, "input: a model of task zero-shot takes a string, not an object"),
    ],
)
def test_an_invalid_request_is_refused_with_what_is_accepted(
    task: str, value: object, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        texts(task, value, **parameters)
    assert message in raised.value.detail


def test_only_parameters_that_differ_from_their_defaults_are_sent() -> None:
    read = TASKS["embed"].read_parameters
    assert read(None).sent() == read({"truncate": False, "dimensions": None}).sent() == {}
    assert read({"truncate": True, "dimensions": 8}).sent() == {"truncate": True, "dimensions": 8}
    assert TASKS["zero-shot"].read_parameters(LABELS).sent() == LABELS


def test_the_estimated_cost_counts_each_text_up_to_the_models_limit() -> None:
    pairs = texts("rerank", {"query": "x" * 40, "documents": ["", "y" * 40, "z" * 4000]})
    assert TASKS["rerank"].estimate_tokens(pairs, max_tokens=30) == 10 + 20 + 30


def save(file: Path, value: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def test_more_dimensions_than_the_model_has_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "config.json", {"hidden_size": 32})
    save(tmp_path / "modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])
    save(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True})
    assert embedding_width(tmp_path) == 64
    embed = TASKS["embed"]
    assert embed.check_model is not None
    embed.check_model(embed.read_parameters({"dimensions": 64}), tmp_path)
    with pytest.raises(InvalidInput, match="dimensions: takes 1 to 64, the width of this model's vectors, not 65"):
        embed.check_model(embed.read_parameters({"dimensions": 65}), tmp_path)
