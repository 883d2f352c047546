"""The generate engine on a tiny random Llama: the text is the model's own, whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.steps import drive, ready
from tests.support.tiny_engine import CONTEXT, assert_empty, generated, load, prompts_of, run, text_of
from tests.support.tiny_llama import EOS, VOCABULARY, save_tiny_llama
from windrow.errors import ModelFailed, ModelUnusable
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.engines.generation.loading import checked_ids


@pytest.mark.parametrize("strategy", ["none", "static", "continuous"])
def test_greedy_texts_equal_those_of_transformers_token_for_token(folder: Path, strategy: str) -> None:
    engine = load(folder, strategy=strategy, max_batch_size=5, max_batch_tokens=48, prefill_chunk_tokens=13)
    prompts, lengths = prompts_of(14), [1 + 5 * (number % 6) for number in range(14)]
    for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        engine.add(str(number), ready(engine, {"prompt_ids": ids}, max_tokens=length))
    results = drive(engine)
    for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        expected = generated(folder, ids, max_new_tokens=length, do_sample=False)
        output = results.output(str(number))
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
            options: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True}
            if number % 2:
                options |= {"temperature": 0.8, "seed": number, "frequency_penalty": 0.5}
            one.add(str(number), ready(one, {"prompt_ids": ids}, **options))
        results = drive(one)
        answers.append([results.output(str(number))["text"] for number in range(len(prompts))])
        assert_empty(one)
    assert answers[0] == answers[1]
    assert engine._scheduler.step > wide._scheduler.step


def test_the_same_seed_gives_the_same_text_whatever_else_is_in_the_batch(engine: GenerateEngine) -> None:
    options = {"max_tokens": 20, "temperature": 1.2, "top_p": 0.9, "top_k": 40, "seed": 11}
    alone = run(engine, "the same prompt", **options)["text"]
    for number, ids in enumerate(prompts_of(6)):
        engine.add(str(number), ready(engine, {"prompt_ids": ids}, max_tokens=3 * number + 1, temperature=0.7))
    engine.add("one", ready(engine, "the same prompt", **options))
    assert drive(engine).output("one")["text"] == alone
    assert run(engine, "the same prompt", **options | {"seed": 12})["text"] != alone


def test_choices_differ_and_the_first_equals_a_single_choice_with_the_same_seed(engine: GenerateEngine) -> None:
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    made = run(engine, "several", n=3, **options)
    texts = [choice["text"] for choice in made["choices"]]
    assert len(set(texts)) == 3
    assert made["text"] == texts[0] == run(engine, "several", **options)["text"]
    assert made["usage"]["completion_tokens"] == 36
    assert [choice["index"] for choice in made["choices"]] == [0, 1, 2]


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
    results = drive(engine)
    failed = results.outcomes["b"]
    assert isinstance(failed, Failed)
    assert "RuntimeError" in failed.error.detail
    alone = load(folder)
    for id, text in (("a", "good"), ("c", "good too"), ("d", "fine")):
        assert results.output(id)["text"] == run(alone, text, max_tokens=4)["text"]
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
        results = drive(engine)
        failed = results.outcomes["bad"]
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ModelFailed)
        assert "NaN" in failed.error.detail
        if not turn:
            text = results.output("good")["text"]
        assert results.output("good")["text"] == text
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
    results = drive(engine)
    for number, ids in enumerate(prompts):
        expected = generated(tmp_path, ids, max_new_tokens=8, do_sample=False)
        assert results.output(str(number))["text"] == text_of(engine, expected)


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
