"""The generate engine on a tiny random Llama: the text is the model's own, whatever else is in the batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests.support.steps import drive, ready
from tests.support.tiny_llama import CHAT_TEMPLATE, EOS, VOCABULARY, save_tiny_llama
from windrow.errors import InputTooLong, InvalidInput, ModelFailed, ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.worker.engines import base
from windrow.worker.engines.base import Prepared, StepEngine
from windrow.worker.engines.device.weights import load_weights
from windrow.worker.engines.generation import collecting
from windrow.worker.engines.generation.constraints import SchemaCompiler
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.engines.generation.inputs import PromptPreparer
from windrow.worker.engines.generation.loading import checked_ids
from windrow.worker.engines.loading import load_engine

CONTEXT = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"), context_tokens=CONTEXT)


def load(folder: Path, **settings: Any) -> GenerateEngine:
    defaults: dict[str, Any] = {"max_batch_size": 8, "page_tokens": 4, "dtype": "float32"}
    engine = load_engine("tiny", ModelSettings(task="generate", source=str(folder), **defaults | settings))
    assert isinstance(engine, GenerateEngine)
    assert isinstance(engine, StepEngine)
    return engine


@pytest.fixture(scope="module")
def shared(folder: Path) -> GenerateEngine:
    return load(folder)


@pytest.fixture
def engine(shared: GenerateEngine) -> Iterator[GenerateEngine]:
    yield shared
    drive(shared)
    assert_empty(shared)


def assert_empty(engine: GenerateEngine) -> None:
    assert engine.step() is None
    assert engine._scheduler.is_idle
    assert engine._scheduler.pages_taken == 0
    assert not engine._collector.requests
    assert engine._runner.is_idle


def run(engine: GenerateEngine, value: Any, **parameters: Any) -> dict[str, Any]:
    engine.add("one", ready(engine, value, **parameters))
    return drive(engine).output("one")


def prompts_of(count: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, draw.integers(1, longest)).tolist() for _ in range(count)]


def generated(folder: Path, ids: list[int], **wishes: Any) -> list[int]:
    """What transformers' own ``generate`` gives: new tokens, the end's included."""
    module: Any = load_weights(folder, "AutoModelForCausalLM", torch.float32, torch.device("cpu")).module
    module.config._attn_implementation = "sdpa"
    tensor = torch.tensor([ids])
    made = module.generate(tensor, attention_mask=torch.ones_like(tensor), pad_token_id=0, **wishes)
    return made[0, len(ids) :].tolist()


def text_of(engine: GenerateEngine, ids: list[int]) -> str:
    return engine._tokenizer.decode([token for token in ids if token != EOS])


@pytest.mark.parametrize("strategy", ["none", "static", "continuous"])
def test_greedy_texts_equal_those_of_transformers_token_for_token(folder: Path, strategy: str) -> None:
    engine = load(folder, strategy=strategy, max_batch_size=5, max_batch_tokens=48, prefill_chunk_tokens=13)
    prompts, lengths = prompts_of(14), [1 + 5 * (number % 6) for number in range(14)]
    for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        engine.add(str(number), ready(engine, {"prompt_ids": ids}, max_tokens=length))
    heard = drive(engine)
    for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        expected = generated(folder, ids, max_new_tokens=length, do_sample=False)
        output = heard.output(str(number))
        assert output["text"] == text_of(engine, expected)
        assert output["finish_reason"] == ("stop" if expected[-1] == EOS else "length")
        assert output["usage"] == {
            "prompt_tokens": len(ids), "completion_tokens": len(expected),
            "total_tokens": len(ids) + len(expected), "cached_tokens": output["usage"]["cached_tokens"],
        }  # fmt: skip
    assert_empty(engine)


def test_penalties_equal_those_of_transformers(folder: Path, engine: GenerateEngine) -> None:
    for ids in prompts_of(3):
        made = run(engine, {"prompt_ids": ids}, max_tokens=24, repetition_penalty=1.7)
        assert made["text"] == text_of(engine, generated(folder, ids, max_new_tokens=24, repetition_penalty=1.7))


def test_preemption_in_a_full_cache_does_not_change_the_texts(folder: Path) -> None:
    engine = load(folder, cache_tokens=96, max_batch_size=6)
    wide = load(folder, max_batch_size=6)
    prompts = prompts_of(10, longest=20, seed=1)
    answers = []
    for one in (engine, wide):
        for number, ids in enumerate(prompts):
            wishes: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True}
            if number % 2:
                wishes |= {"temperature": 0.8, "seed": number, "frequency_penalty": 0.5}
            one.add(str(number), ready(one, {"prompt_ids": ids}, **wishes))
        heard = drive(one)
        answers.append([heard.output(str(number))["text"] for number in range(len(prompts))])
        assert_empty(one)
    assert answers[0] == answers[1]
    assert engine._scheduler.step > wide._scheduler.step


def test_the_same_seed_gives_the_same_text_whatever_else_is_in_the_batch(engine: GenerateEngine) -> None:
    wishes = {"max_tokens": 20, "temperature": 1.2, "top_p": 0.9, "top_k": 40, "seed": 11}
    alone = run(engine, "the same prompt", **wishes)["text"]
    for number, ids in enumerate(prompts_of(6)):
        engine.add(str(number), ready(engine, {"prompt_ids": ids}, max_tokens=3 * number + 1, temperature=0.7))
    engine.add("one", ready(engine, "the same prompt", **wishes))
    assert drive(engine).output("one")["text"] == alone
    assert run(engine, "the same prompt", **wishes | {"seed": 12})["text"] != alone


def test_choices_differ_and_the_first_equals_a_single_choice_with_the_same_seed(engine: GenerateEngine) -> None:
    wishes = {"max_tokens": 12, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    made = run(engine, "several", n=3, **wishes)
    texts = [choice["text"] for choice in made["choices"]]
    assert len(set(texts)) == 3
    assert made["text"] == texts[0] == run(engine, "several", **wishes)["text"]
    assert made["usage"]["completion_tokens"] == 36
    assert [choice["index"] for choice in made["choices"]] == [0, 1, 2]


def test_further_choices_do_not_read_the_prompt_again(engine: GenerateEngine) -> None:
    engine.add("one", ready(engine, "a prompt of some length", n=3, temperature=1.0, max_tokens=4))
    read = 0
    while (handle := engine.step()) is not None:
        read += handle.plan.prompt_tokens
        engine.collect(handle)
    # <s> and 23 characters in pages of four; each choice reads the last page, whose last token gives its first.
    assert read == 24 + 2 * 4


def test_the_deltas_of_a_stream_add_up_to_its_text(engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "STREAM_INTERVAL_S", 0.0)
    monkeypatch.setattr(base, "MAX_STREAM_EVENTS_PER_S", 1e9)
    for number, ids in enumerate(prompts_of(8, seed=3)):
        prepared = ready(engine, {"prompt_ids": ids}, max_tokens=40, temperature=1.0, seed=number)
        engine.add(str(number), prepared, stream=True)
    heard = drive(engine)
    for number in range(8):
        deltas = heard.deltas[str(number)]
        assert "".join(delta.text for delta in deltas) == heard.output(str(number))["text"]
        assert sum(delta.tokens for delta in deltas) == heard.output(str(number))["usage"]["completion_tokens"]
        assert [delta.first for delta in deltas] == [True] + [False] * (len(deltas) - 1)


def test_a_request_without_a_stream_has_deltas_for_the_first_token_and_the_end(engine: GenerateEngine) -> None:
    engine.add("one", ready(engine, "quiet", max_tokens=9, ignore_eos=True))
    deltas = drive(engine).deltas["one"]
    assert [(delta.first, delta.tokens, delta.outcome is not None) for delta in deltas] == [
        (True, 1, False), (False, 8, True),
    ]  # fmt: skip


def test_a_stop_string_ends_the_text_and_is_never_part_of_it(engine: GenerateEngine) -> None:
    wishes = {"max_tokens": 60, "temperature": 1.5, "seed": 1, "ignore_eos": True}
    whole = run(engine, "a prompt", **wishes)["text"]
    plain = [at for at in range(4, len(whole) - 3) if "\ufffd" not in whole[at : at + 3]]
    stop = whole[plain[0] : plain[0] + 3]
    engine.add("one", ready(engine, "a prompt", stop=[stop, "never comes"], **wishes), stream=True)
    heard = drive(engine)
    output = heard.output("one")
    assert output["text"] == whole[: whole.index(stop)]
    assert output["finish_reason"] == "stop"
    assert "".join(delta.text for delta in heard.deltas["one"]) == output["text"]
    late = run(engine, "a prompt", stop=stop, min_tokens=60, **wishes)
    assert late["text"] == whole


def test_end_tokens_count_after_min_tokens_and_never_with_ignore_eos(folder: Path, engine: GenerateEngine) -> None:
    # A prompt whose answer ends early, by search.
    tried = {str(number): ids for number, ids in enumerate(prompts_of(200, longest=10, seed=7))}
    for id, ids in tried.items():
        engine.add(id, ready(engine, {"prompt_ids": ids}, max_tokens=12))
    outcomes = drive(engine).outcomes
    ids = next(
        tried[id] for id, made in outcomes.items() if isinstance(made, Done) and made.output["finish_reason"] == "stop"
    )
    expected = generated(folder, ids, max_new_tokens=12, do_sample=False)
    assert expected[-1] == EOS
    at_once = run(engine, {"prompt_ids": ids}, max_tokens=12)
    assert (at_once["finish_reason"], at_once["usage"]["completion_tokens"]) == ("stop", len(expected))
    held = run(engine, {"prompt_ids": ids}, max_tokens=12, min_tokens=len(expected) + 1)
    assert held["usage"]["completion_tokens"] > len(expected)
    ignored = run(engine, {"prompt_ids": ids}, max_tokens=12, ignore_eos=True)
    assert (ignored["finish_reason"], ignored["usage"]["completion_tokens"]) == ("length", 12)


def test_logprobs_are_those_of_the_model(folder: Path, engine: GenerateEngine) -> None:
    ids = prompts_of(1, seed=2)[0]
    made = run(engine, {"prompt_ids": ids}, max_tokens=5, logprobs=3, ignore_eos=True)
    module: Any = load_weights(folder, "AutoModelForCausalLM", torch.float32, torch.device("cpu")).module
    expected = generated(folder, ids, max_new_tokens=5, do_sample=False, eos_token_id=-1)
    module.config._attn_implementation = "sdpa"
    with torch.inference_mode():
        logits = module(torch.tensor([ids + expected])).logits[0, len(ids) - 1 : -1]
    top = torch.log_softmax(logits, -1).topk(3)
    assert len(made["logprobs"]) == 5
    for entry, values in zip(made["logprobs"], top.values.tolist(), strict=True):
        assert entry["logprob"] == pytest.approx(values[0], abs=1e-4)
        assert [other["logprob"] for other in entry["top_logprobs"]] == pytest.approx(values, abs=1e-4)


def test_a_shared_prefix_of_prompts_is_read_once(folder: Path) -> None:
    engine = load(folder)
    system = "you are a scythe, and answer as one. "
    first = run(engine, system + "mow!")
    second = run(engine, system + "rake!")
    assert first["usage"]["cached_tokens"] == 0
    # <s> and the 37 characters fill nine pages of four.
    assert second["usage"]["cached_tokens"] == 36
    assert second["text"] == run(load(folder), system + "rake!")["text"]


def test_a_full_engine_has_room_for_more_urgent_requests_that_would_run(folder: Path) -> None:
    engine = load(folder, max_batch_size=4)
    for number in range(5):
        engine.add(f"low-{number}", ready(engine, "hay", max_tokens=9), priority=2)
    assert engine.room() == 0
    assert [engine.room_by_preemption(priority) for priority in (0, 1, 2)] == [4, 4, 0]
    engine.add("normal", ready(engine, "hay", max_tokens=9, n=2, temperature=1), priority=1)
    assert [engine.room_by_preemption(priority) for priority in (0, 1)] == [4, 2]
    for number in range(4):
        engine.add(f"high-{number}", ready(engine, "hay", max_tokens=9))
    assert [engine.room_by_preemption(priority) for priority in (0, 1)] == [0, 0]
    drive(engine)
    assert_empty(engine)


def test_a_static_batch_is_not_preempted(folder: Path) -> None:
    engine = load(folder, strategy="static")
    engine.add("low", ready(engine, "hay", max_tokens=3), priority=2)
    assert engine.room_by_preemption(0) == 0
    drive(engine)


def test_an_urgent_request_is_answered_while_choices_of_low_priority_fill_the_cache(folder: Path) -> None:
    engine = load(folder, cache_tokens=160)
    engine.add("low", ready(engine, "hay", max_tokens=60, n=8, temperature=1, seed=1, ignore_eos=True), priority=2)
    for _ in range(20):
        engine.collect(engine.step())
    taken = engine.cache_use()
    assert taken.pages_taken > 35  # of 40
    engine.add("high", ready(engine, "mow", max_tokens=3, ignore_eos=True))
    ended = [delta.id for _ in range(5) for delta in engine.collect(engine.step()) if delta.outcome is not None]
    assert ended == ["high"]
    assert engine.cache_use().preemptions > taken.preemptions
    output = drive(engine).output("low")
    assert engine.cache_use().pages_taken == 0
    # Whoever made room goes on as if it had not.
    alone = run(load(folder), "hay", max_tokens=60, n=8, temperature=1, seed=1, ignore_eos=True)
    assert [one["text"] for one in output["choices"]] == [one["text"] for one in alone["choices"]]


def test_tokens_of_a_stream_are_collected_between_the_first_and_the_last(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "STREAM_INTERVAL_S", 60.0)
    engine.add("calm", ready(engine, "a prompt", max_tokens=30, ignore_eos=True), stream=True)
    engine.add("stopping", ready(engine, "another", max_tokens=30, ignore_eos=True, stop=["\n\n\n"]), stream=True)
    heard = drive(engine)
    assert [delta.tokens for delta in heard.deltas["calm"]] == [1, 29]
    assert "".join(delta.text for delta in heard.deltas["calm"]) == heard.output("calm")["text"]
    # What a stop string may end is looked at every time.
    assert [delta.tokens for delta in heard.deltas["stopping"]] == [1] * heard.output("stopping")["usage"][
        "completion_tokens"
    ]


def test_requests_without_a_stream_do_not_delay_a_stream(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(collecting, "stream_interval_s", lambda streams: asked.append(streams) or 0.0)
    engine.add("followed", ready(engine, "a prompt", max_tokens=10, ignore_eos=True), stream=True)
    for number in range(4):
        engine.add(str(number), ready(engine, "another", max_tokens=10, ignore_eos=True))
    drive(engine)
    assert max(asked) == 1


def test_many_streams_get_less_frequent_deltas() -> None:
    assert base.stream_interval_s(1) == base.stream_interval_s(200) == base.STREAM_INTERVAL_S
    assert base.stream_interval_s(1000) == 1000 / base.MAX_STREAM_EVENTS_PER_S


def test_requests_with_many_choices_leave_room_for_urgent_ones(folder: Path) -> None:
    engine = load(folder, max_batch_size=16)
    assert engine.room() == 16 + 2  # two that wait
    for id in ("a", "b"):
        engine.add(id, ready(engine, "hay", max_tokens=30, n=16, temperature=1, ignore_eos=True), priority=2)
    assert engine.room() == 1  # one has all the rows, and the other waits
    for _ in range(4):
        engine.collect(engine.step())
    assert engine._scheduler.waiting == 16
    assert engine.room() == 2  # both have begun
    engine.add("high", ready(engine, "mow", max_tokens=2, ignore_eos=True))
    assert engine.room() == 1
    ended = [delta.id for _ in range(4) for delta in engine.collect(engine.step()) if delta.outcome is not None]
    assert ended == ["high"]
    drive(engine)
    assert engine.room() == 16 + 2


def test_a_canceled_request_is_removed_at_once_and_has_no_further_output(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "STREAM_INTERVAL_S", 0.0)
    monkeypatch.setattr(base, "MAX_STREAM_EVENTS_PER_S", 1e9)
    for id in ("kept", "canceled"):
        engine.add(id, ready(engine, id, max_tokens=50, ignore_eos=True), stream=True)
    for _ in range(3):
        engine.collect(engine.step())
    taken = engine._scheduler.pages_taken
    engine.cancel("canceled")
    engine.cancel("unknown")
    handle = engine.step()
    assert handle is not None
    assert engine._scheduler.pages_taken < taken
    assert {delta.id for delta in engine.collect(handle)} == {"kept"}
    heard = drive(engine)
    assert set(heard.outcomes) == {"kept"}


def test_a_static_batch_returns_when_all_its_requests_have_ended(folder: Path) -> None:
    engine = load(folder, strategy="static", max_batch_size=2)
    for id, length in (("short", 3), ("long", 20), ("next", 2)):
        engine.add(id, ready(engine, id, max_tokens=length, ignore_eos=True))
    ended: list[list[str]] = []
    while (handle := engine.step()) is not None:
        ended.append([delta.id for delta in engine.collect(handle) if delta.outcome is not None])
    assert [ids for ids in ended if ids] == [["short", "long"], ["next"]]
    assert_empty(engine)


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
        wishes = {"schema": SCHEMA, "max_tokens": 90, "temperature": 1.0 if seed else 0.0, "seed": seed}
        engine.add(str(seed), ready(engine, "tell me", **wishes), stream=bool(seed % 2))
    engine.add("free", ready(engine, "free", max_tokens=30))
    heard = drive(engine)
    assert heard.output("free")["text"] == free
    met = 0
    for seed in range(6):
        output = heard.output(str(seed))
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


def test_a_request_that_makes_the_pass_raise_fails_alone(folder: Path) -> None:
    engine = load(folder)
    slots = engine._model.slots
    forward = slots.forward

    def raising(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if (ids == 88).any():
            raise RuntimeError("X")
        return forward(ids, *rest)

    slots.forward = raising  # type: ignore[method-assign]
    for id, text in (("a", "good"), ("b", "with X in it"), ("c", "good too"), ("d", "fine")):
        engine.add(id, ready(engine, text, max_tokens=4))
    heard = drive(engine)
    failed = heard.outcomes["b"]
    assert isinstance(failed, Failed)
    assert "RuntimeError" in failed.error.detail
    alone = load(folder)
    for id, text in (("a", "good"), ("c", "good too"), ("d", "fine")):
        assert heard.output(id)["text"] == run(alone, text, max_tokens=4)["text"]
    assert_empty(engine)


def test_a_request_with_nan_logits_fails_alone_and_does_not_affect_the_cache(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_tiny_llama(tmp_path, context_tokens=CONTEXT)
    weights = load_file(tmp_path / "model.safetensors")
    spoilt = next(token for token in range(97, 123) if token not in checked_ids(VOCABULARY, CONTEXT))
    weights["model.embed_tokens.weight"][spoilt] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    engine = load(tmp_path, cache_tokens=32)
    for turn in range(3):
        engine.add("bad", ready(engine, {"prompt_ids": [65, spoilt, 66]}, max_tokens=8))
        engine.add("good", ready(engine, "GOOD", max_tokens=12, ignore_eos=True))
        heard = drive(engine)
        failed = heard.outcomes["bad"]
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ModelFailed)
        assert "NaN" in failed.error.detail
        if not turn:
            text = heard.output("good")["text"]
        assert heard.output("good")["text"] == text
    assert_empty(engine)


def test_models_whose_attention_cannot_be_served_are_refused(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    }  # fmt: skip
    save_tiny_llama(tmp_path)
    MistralForCausalLM(MistralConfig(**shape, sliding_window=16)).save_pretrained(tmp_path)
    with pytest.raises(ModelUnusable, match="sliding window of 16 tokens; set max_input_tokens"):
        load(tmp_path)
    assert load(tmp_path, max_input_tokens=16).info.max_input_tokens == 16


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Mistral", "Gemma", "Phi", "Olmo", "GPTNeoX"])
def test_other_model_families_equal_transformers(tmp_path: Path, family: str) -> None:
    import transformers

    torch.manual_seed(1)
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
        "eos_token_id": EOS, "pad_token_id": 0, "bos_token_id": 256, "initializer_range": 0.3,
    }  # fmt: skip
    if family in ("GPTNeoX", "Phi"):
        shape = {name: value for name, value in shape.items() if name not in ("num_key_value_heads", "head_dim")}
    if family == "Mistral":
        shape["sliding_window"] = None
    config = getattr(transformers, f"{family}Config")(**shape)
    save_tiny_llama(tmp_path)
    for file in ("model.safetensors", "generation_config.json"):
        (tmp_path / file).unlink()
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path)
    engine = load(tmp_path)
    prompts = prompts_of(3, longest=20)
    for number, ids in enumerate(prompts):
        engine.add(str(number), ready(engine, {"prompt_ids": ids}, max_tokens=8))
    heard = drive(engine)
    for number, ids in enumerate(prompts):
        expected = generated(tmp_path, ids, max_new_tokens=8, do_sample=False)
        assert heard.output(str(number))["text"] == text_of(engine, expected)


def test_nothing_is_left_of_two_thousand_requests_with_random_cancels(folder: Path) -> None:
    engine = load(folder, max_batch_size=64, cache_tokens=2048, strategy="continuous")
    draw = np.random.default_rng(0)
    todo = [str(number) for number in range(2000)]
    canceled: set[str] = set()
    outcomes: dict[str, Outcome] = {}
    while todo or engine._collector.requests:
        while todo and engine.room():
            id = todo.pop()
            ids = draw.integers(0, 256, draw.integers(1, 24)).tolist()
            engine.add(id, ready(engine, {"prompt_ids": ids}, max_tokens=int(draw.integers(1, 16))))
        if draw.random() < 0.9 and engine._collector.requests:
            id = str(draw.choice(list(engine._collector.requests)))
            engine.cancel(id)
            canceled.add(id)
        if (handle := engine.step()) is not None:
            outcomes |= {delta.id: delta.outcome for delta in engine.collect(handle) if delta.outcome is not None}
    assert set(outcomes) | canceled == {str(number) for number in range(2000)}
    assert not set(outcomes) & canceled
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())
    assert len(canceled) > 100
    assert not drive(engine).outcomes
    assert_empty(engine)
