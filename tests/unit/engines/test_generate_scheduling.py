"""Sharing, preemption, cancellation and static batches in the generate engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.steps import drive, ready
from tests.support.tiny_engine import assert_empty, load, run
from windrow.worker.engines import base
from windrow.worker.engines.generation.engine import GenerateEngine


def test_further_choices_do_not_read_the_prompt_again(engine: GenerateEngine) -> None:
    engine.add("one", ready(engine, "a prompt of some length", n=3, temperature=1.0, max_tokens=4))
    read = 0
    while (handle := engine.step()) is not None:
        read += handle.plan.prompt_tokens
        engine.collect(handle)
    # <s> and 23 characters in pages of four; each choice reads the last page, whose last token gives its first.
    assert read == 24 + 2 * 4


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
    # A preempted request continues with the same text.
    alone = run(load(folder), "hay", max_tokens=60, n=8, temperature=1, seed=1, ignore_eos=True)
    assert [one["text"] for one in output["choices"]] == [one["text"] for one in alone["choices"]]


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
    results = drive(engine)
    assert set(results.outcomes) == {"kept"}


def test_a_static_batch_returns_when_all_its_requests_have_ended(folder: Path) -> None:
    engine = load(folder, strategy="static", max_batch_size=2)
    for id, length in (("short", 3), ("long", 20), ("next", 2)):
        engine.add(id, ready(engine, id, max_tokens=length, ignore_eos=True))
    ended: list[list[str]] = []
    while (handle := engine.step()) is not None:
        ended.append([delta.id for delta in engine.collect(handle) if delta.outcome is not None])
    assert [ids for ids in ended if ids] == [["short", "long"], ["next"]]
    assert_empty(engine)
