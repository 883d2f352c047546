from pathlib import Path

import pytest

from windrow.bench.compare.queue_users import UserTurn
from windrow.bench.compare.report import notes, one_line, summarise, tables
from windrow.bench.compare.run import SERIAL, Contender, Plan, make_contenders
from windrow.bench.dataset import Item, load_items, read_items, with_lengths
from windrow.bench.latency_parts import measured, summarise_stages
from windrow.bench.programs import BenchFailed
from windrow.cli.load_options import read_numbers

ENGINE = {"device": "pretended", "strategy_note": None}


def metrics(size: int, tokens: int, padding: float = 0.0, queue_ms: float = 1.0) -> dict[str, float]:
    return {
        "queue_ms": queue_ms, "batch_wait_ms": 2.0, "compute_ms": 20.0,
        "batch_size": size, "batch_tokens": tokens, "padding_ratio": padding,
    }  # fmt: skip


def a_turn(count: int, took_s: float, size: int = 1, errors: tuple[str, ...] = ()) -> UserTurn:
    return UserTurn(took_s, [took_s / 2] * count, [metrics(size, 10 * size)] * count, list(errors))


def a_plan(*named: Contender) -> Plan:
    return Plan(named, {"kind": "fixed"}, 5.0, users=4, rounds=2)


ALONE, PAIRS = Contender(SERIAL, "none", 1), Contender("batch-2", "packed", 2)


def test_serial_comes_first_and_a_single_strategy_is_called_batch() -> None:
    assert make_contenders(["packed"], [8, 16]) == [
        Contender("serial", "none", 1),
        Contender("batch-8", "packed", 8),
        Contender("batch-16", "packed", 16),
    ]
    names = [contender.name for contender in make_contenders(["static", "none"], [4])]
    assert names == ["serial", "static-4", "none-4"]


def test_the_speedup_is_computed_within_rounds() -> None:
    # 10/2 and 10/4 requests per second one by one, 20 and 10 in pairs: 4 times in both, though the machine slowed down.
    turns = {SERIAL: [a_turn(10, 2.0), a_turn(10, 4.0)], "batch-2": [a_turn(10, 0.5, 2), a_turn(10, 1.0, 2)]}
    report = summarise(a_plan(ALONE, PAIRS), turns, {SERIAL: ENGINE, "batch-2": ENGINE})
    pairs = report["contenders"]["batch-2"]
    assert pairs["speedup"] == pytest.approx(4.0)
    assert pairs["requests_per_s"] == pytest.approx(15.0)
    assert pairs["tokens_per_s"] == pytest.approx(200 / 1.5)
    assert pairs["response_ms"]["p50"] == pytest.approx(375.0)  # halfway between 250 and 500
    assert one_line(report) == "serial 1.0x, batch-2 4.0x"


def test_the_tables_have_separate_columns_for_each_stage() -> None:
    turns = {SERIAL: [a_turn(2, 0.1)], "batch-2": [a_turn(2, 0.1, 2)]}
    rates, times = tables(summarise(a_plan(ALONE, PAIRS), turns, {SERIAL: ENGINE, "batch-2": ENGINE}))
    assert [len(row) for row in rates] == [len(rates[0])] * 3
    assert dict(zip(times[0], times[2], strict=True)) == {
        "mean ms": "batch-2", "queue": "1", "batch wait": "2", "service": "20", "response": "50", "p50": "50",
        "p99": "50",
    }  # fmt: skip


def test_failures_are_counted_apart_and_the_first_is_shown() -> None:
    turns = {SERIAL: [a_turn(4, 1.0)], "batch-2": [a_turn(3, 1.0, 2, errors=("out_of_memory: too much",))]}
    report = summarise(a_plan(ALONE, PAIRS), turns, {SERIAL: ENGINE, "batch-2": ENGINE})
    assert report["contenders"]["batch-2"]["requests_per_s"] == 3
    assert notes(report) == ["batch-2: 1 failed; the first: out_of_memory: too much"]


def test_a_contender_without_a_success_ends_the_comparison() -> None:
    turns = {SERIAL: [UserTurn(1.0, [1.0], [], ["invalid_input: takes a string"])]}
    with pytest.raises(BenchFailed, match=r"serial: no request succeeded.*takes a string"):
        summarise(a_plan(ALONE), turns, {SERIAL: ENGINE})


def test_a_request_counts_for_its_share_of_its_batch() -> None:
    # A batch of 3 x 20 tokens with 45 requested ones and one foreign request, and a batch of 1 x 15.
    shared = metrics(3, 60, padding=0.25)
    stages = summarise_stages([shared, shared, metrics(1, 15)])
    assert stages["mean_batch_size"] == pytest.approx(3 / (2 / 3 + 1))
    assert stages["tokens"] == 45  # 2 * 15 + 15
    assert stages["padding_ratio"] == pytest.approx(1 - 45 / 55)


def test_metrics_without_batches_give_no_batch_figures() -> None:
    stages = summarise_stages([{"queue_ms": 4.0}])
    assert stages["queue_ms"]["mean"] == pytest.approx(4.0)
    assert (stages["compute_ms"], stages["mean_batch_size"], stages["tokens"]) == (None, None, None)


def test_metrics_of_generation_have_the_names_of_the_reports() -> None:
    metrics = {"queue_ms": 1.0, "time_to_first_token_ms": 30.0, "inter_token_ms": 5.0}
    made = measured(metrics, {"text": "w", "usage": {"completion_tokens": 8}})
    stages = summarise_stages([made, measured({"queue_ms": 1.0}, {"text": "", "usage": {"completion_tokens": 1}})])
    assert (stages["ttft_ms"]["mean"], stages["itl_ms"]["mean"]) == (pytest.approx(30), pytest.approx(5))
    assert (stages["tokens"], stages["mean_batch_size"]) == (9, None)
    assert measured({"queue_ms": 1.0}, {"embedding": []}) == {"queue_ms": 1.0}


def test_a_report_of_generation_has_columns_for_tokens() -> None:
    metrics = {"queue_ms": 1.0, "batch_wait_ms": 2.0, "compute_ms": 20.0, "completion_tokens": 5, "ttft_ms": 9.0}
    turns = {SERIAL: [UserTurn(1.0, [0.5], [metrics])]}
    rates, times = tables(summarise(a_plan(ALONE), turns, {SERIAL: ENGINE}))
    assert dict(zip(rates[0], rates[1], strict=True))["tokens/s"] == "5"
    row = dict(zip(times[0], times[1], strict=True))
    assert (row["TTFT"], row["ITL"]) == ("9", "-")


def test_answers_without_max_tokens_get_seeded_lengths() -> None:
    items = [Item("a", {"truncate": True}), Item("b", {"max_tokens": 3})] * 20
    made = with_lengths(items, median_tokens=32, seed=1)
    assert made == with_lengths(items, median_tokens=32, seed=1) != with_lengths(items, median_tokens=32, seed=2)
    assert {item.parameters["max_tokens"] for item in made[1::2]} == {3}
    drawn = [item.parameters["max_tokens"] for item in made[::2]]
    assert len(set(drawn)) > 5
    assert 1 <= min(drawn) <= 32 <= max(drawn) <= 256
    assert all(item.parameters["ignore_eos"] and item.parameters["truncate"] for item in made[::2])


def test_a_text_file_has_one_input_per_line_and_repeats(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("make hay\n\nwhile the sun shines\n")
    items = load_items(file, 3, seed=0)
    assert [item.input for item in items] == ["make hay", "while the sun shines", "make hay"]
    assert [item.words for item in items] == [2, 4, 2]
    assert items[0].parameters == {"truncate": True}


def test_json_lines_have_an_input_and_optional_parameters(tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"text": "a"}\n{"prompt": "b", "parameters": {"max_tokens": 4}}\n{"input": {"query": "c"}}\n')
    assert read_items(file) == [
        Item("a", {"truncate": True}),
        Item("b", {"max_tokens": 4}),
        Item({"query": "c"}),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\nnot json\n', r"line 2: not JSON"),
        ('{"words": "a"}\n', r"line 1: takes an object with one of input, text, prompt"),
        ('["a"]\n', r"line 1: takes an object"),
        ('{"text": "a", "parameters": 3}\n', r"line 1: parameters takes an object"),
        ("\n\n", r"has no line"),
    ],
)
def test_the_error_for_an_invalid_dataset_has_the_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_items(file)


def test_generated_texts_depend_on_the_seed() -> None:
    assert load_items(None, 5, seed=3) == load_items(None, 5, seed=3) != load_items(None, 5, seed=4)


def test_numbers_are_sorted_and_distinct() -> None:
    assert read_numbers("16,8, 8", "--batch-size", whole=True) == [8, 16]
    assert read_numbers("2.5,10", "--rates") == [2.5, 10]


@pytest.mark.parametrize("text", ["", "8;16", "0", "-1", "nan", "inf", "8,", "2.5", "2000"])
def test_an_invalid_list_of_whole_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"--batch-size .*takes whole numbers above 0 and at most 1000"):
        read_numbers(text, "--batch-size", whole=True, most=1000)
