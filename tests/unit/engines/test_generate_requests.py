"""Requests to the generate engine: invalid ones, truncation, chats and schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.support.steps import drive, ready
from tests.support.tiny_engine import CONTEXT, run
from tests.support.tiny_llama import CHAT_TEMPLATE, EOS, VOCABULARY
from windrow.errors import InputTooLong, InvalidInput
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.worker.engines.base import Prepared
from windrow.worker.engines.generation.constraints import SchemaCompiler
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.engines.generation.inputs import PromptPreparer

BAD: list[tuple[Any, Mapping[str, Any], type[InvalidInput], str]] = [
    ("x" * CONTEXT, {}, InputTooLong, "the context has 128"),
    ("x" * (32 * CONTEXT + 1), {}, InputTooLong, f"input: {32 * CONTEXT + 1} characters, and the model takes 128"),
    ({"messages": [{"role": "user", "content": "x" * 32 * CONTEXT}]}, {}, InputTooLong, "characters, and the model"),
    ("fine", {"max_tokens": CONTEXT}, InvalidInput, "leaves no room for a prompt"),
    ("fine", {"max_tokens": CONTEXT - 2}, InputTooLong, "send parameters.truncate: true"),
    ("fine", {"max_tokens": 0}, InvalidInput, "max_tokens"),
    ("fine", {"temperature": -0.1}, InvalidInput, "temperature"),
    ("fine", {"unheard_of": 1}, InvalidInput, "unheard_of"),
    ({"prompt_ids": [VOCABULARY]}, {}, InvalidInput, f"token {VOCABULARY} is not in the vocabulary"),
    ({"messages": [{"role": "tool", "content": "x"}]}, {}, InvalidInput, "no tools here"),
    ({"messages": [{"role": "nobody", "content": "x"}]}, {}, InvalidInput, "role"),
    (7, {}, InvalidInput, "takes a string"),
]


@pytest.mark.parametrize(("value", "parameters", "kind", "says"), BAD)
def test_a_bad_request_is_refused_by_itself(
    engine: GenerateEngine, value: Any, parameters: Mapping[str, Any], kind: type, says: str
) -> None:
    bad, good = engine.prepare([value, "good"], [parameters, {}])
    assert isinstance(bad, Failed)
    assert type(bad.error) is kind
    assert says in bad.error.detail
    assert isinstance(good, Prepared)


def test_a_prompt_that_is_too_long_is_cut_at_its_start_on_request(engine: GenerateEngine) -> None:
    long = ready(engine, "x" * CONTEXT + "the end", max_tokens=100, truncate=True).data
    assert bytes(long.ids).decode() == "x" * 21 + "the end"
    assert long.max_tokens == 100


def test_a_truncated_prompt_is_tokenized_only_as_far_as_it_can_be_kept(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    prompts = engine._model.prompts

    class Tokenizer:
        def encode(self, text: str, **options: Any) -> Any:
            read.append(len(text))
            return engine._tokenizer.encode(text, **options)

    monkeypatch.setattr(type(prompts), "tokenizer", Tokenizer())
    long = ready(engine, "x" * 1_000_000 + "the end", max_tokens=100, truncate=True).data
    assert bytes(long.ids).decode() == "x" * 21 + "the end"
    assert read == [64 * CONTEXT]


def test_a_chat_goes_through_the_template_of_the_model(engine: GenerateEngine) -> None:
    prepared = ready(engine, {"messages": [{"role": "user", "content": "hi"}]})
    assert bytes(prepared.data.ids).decode() == "user: hi\nassistant: "


@pytest.mark.parametrize(
    ("template", "role"),
    [(CHAT_TEMPLATE, "system"), (CHAT_TEMPLATE + "{# takes the role developer #}", "developer")],
    ids=["unknown", "known"],
)
def test_the_role_developer_becomes_system_for_templates_that_do_not_mention_it(
    folder: Path, tmp_path: Path, template: str, role: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    limit = load_text_limit(str(folder))
    schemas = SchemaCompiler(limit.tokenizer, VOCABULARY, [EOS])
    prompts = PromptPreparer(limit, tmp_path, CONTEXT, 4, schemas)
    (prepared,) = prompts.prepare([{"messages": [{"role": "developer", "content": "hi"}]}], [{}])
    assert isinstance(prepared, Prepared)
    assert bytes(prepared.data.ids).decode() == f"{role}: hi\nassistant: "


SCHEMA = {
    "type": "object",
    "properties": {"crop": {"enum": ["hay", "straw"]}, "bales": {"type": "integer"}, "dry": {"type": "boolean"}},
    "required": ["crop", "bales", "dry"],
    "additionalProperties": False,
}


def test_a_text_meets_its_schema_beside_texts_without_one(engine: GenerateEngine) -> None:
    free = run(engine, "free", max_tokens=30)["text"]
    for seed in range(6):
        options = {"schema": SCHEMA, "max_tokens": 90, "temperature": 1.0 if seed else 0.0, "seed": seed}
        engine.add(str(seed), ready(engine, "tell me", **options), stream=bool(seed % 2))
    engine.add("free", ready(engine, "free", max_tokens=30))
    results = drive(engine)
    assert results.output("free")["text"] == free
    met = 0
    for seed in range(6):
        output = results.output(str(seed))
        if output["finish_reason"] == "stop":  # else it was cut off by max_tokens, in a number without end
            made = json.loads(output["text"])
            assert made["crop"] in ("hay", "straw")
            assert isinstance(made["bales"], int)
            assert isinstance(made["dry"], bool)
            met += 1
    assert met


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"not": {}}, "parameters.schema.not: is not enforced"),
        # What the API cannot know: the library reads no such expressions.
        ({"type": "string", "pattern": "("}, "parameters.schema: no text can be held to it: regex parse error"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(engine: GenerateEngine, schema: dict[str, Any], why: str) -> None:
    (refused,) = engine.prepare(["x"], [{"schema": schema}])
    assert isinstance(refused, Failed)
    assert type(refused.error) is InvalidInput
    assert why in refused.error.detail
