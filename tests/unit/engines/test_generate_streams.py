"""The output of the generate engine during generation: streams, stop strings, end tokens and log probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.steps import drive, ready
from tests.support.tiny_engine import generated, prompts_of, run
from tests.support.tiny_llama import EOS
from windrow.scheduler.core.outcomes import Done
from windrow.worker.engines import base
from windrow.worker.engines.device.weights import load_weights
from windrow.worker.engines.generation import collecting
from windrow.worker.engines.generation.engine import GenerateEngine


def test_the_deltas_of_a_stream_add_up_to_its_text(engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "STREAM_INTERVAL_S", 0.0)
    monkeypatch.setattr(base, "MAX_STREAM_EVENTS_PER_S", 1e9)
    for number, ids in enumerate(prompts_of(8, seed=3)):
        prepared = ready(engine, {"prompt_ids": ids}, max_tokens=40, temperature=1.0, seed=number)
        engine.add(str(number), prepared, stream=True)
    results = drive(engine)
    for number in range(8):
        deltas = results.deltas[str(number)]
        assert "".join(delta.text for delta in deltas) == results.output(str(number))["text"]
        assert sum(delta.tokens for delta in deltas) == results.output(str(number))["usage"]["completion_tokens"]
        assert [delta.first for delta in deltas] == [True] + [False] * (len(deltas) - 1)


def test_a_request_without_a_stream_has_deltas_for_the_first_token_and_the_end(engine: GenerateEngine) -> None:
    engine.add("one", ready(engine, "quiet", max_tokens=9, ignore_eos=True))
    deltas = drive(engine).deltas["one"]
    assert [(delta.first, delta.tokens, delta.outcome is not None) for delta in deltas] == [
        (True, 1, False), (False, 8, True),
    ]  # fmt: skip


def test_a_stop_string_ends_the_text_and_is_never_part_of_it(engine: GenerateEngine) -> None:
    options = {"max_tokens": 60, "temperature": 1.5, "seed": 1, "ignore_eos": True}
    whole = run(engine, "a prompt", **options)["text"]
    plain = [at for at in range(4, len(whole) - 3) if "\ufffd" not in whole[at : at + 3]]
    stop = whole[plain[0] : plain[0] + 3]
    engine.add("one", ready(engine, "a prompt", stop=[stop, "never comes"], **options), stream=True)
    results = drive(engine)
    output = results.output("one")
    assert output["text"] == whole[: whole.index(stop)]
    assert output["finish_reason"] == "stop"
    assert "".join(delta.text for delta in results.deltas["one"]) == output["text"]
    late = run(engine, "a prompt", stop=stop, min_tokens=60, **options)
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


def test_tokens_of_a_stream_are_collected_between_the_first_and_the_last(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "STREAM_INTERVAL_S", 60.0)
    engine.add("calm", ready(engine, "a prompt", max_tokens=30, ignore_eos=True), stream=True)
    engine.add("stopping", ready(engine, "another", max_tokens=30, ignore_eos=True, stop=["\n\n\n"]), stream=True)
    results = drive(engine)
    assert [delta.tokens for delta in results.deltas["calm"]] == [1, 29]
    assert "".join(delta.text for delta in results.deltas["calm"]) == results.output("calm")["text"]
    # What a stop string may end is looked at every time.
    assert [delta.tokens for delta in results.deltas["stopping"]] == [1] * results.output("stopping")["usage"][
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
