"""Costs: a line is found again through what was measured, and a file says what is wrong with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from windrow.cli.lab_options import DEFAULT_COST
from windrow.lab.costs.cost import CostModel, DecodeCost, PassCost, StepRuns, read_cost, write_cost
from windrow.lab.costs.fitting import TimedPass, TimedStep, fit_passes, fit_steps
from windrow.lab.costs.shared_cores import ALONE, Shared, pass_end_s

SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 64), st.integers(1, 400))


def timed(
    cost: PassCost, numbers: np.random.Generator | None = None, count: int = 400, shared: Shared = ALONE
) -> list[TimedPass]:
    draw = np.random.default_rng(2)
    made = []
    for _ in range(count):
        sequences = int(draw.choice([1, 1, 2, 5, 20, 60]))
        lengths = draw.integers(1, 256, sequences).tolist()
        pieces_s = cost.cut_s(lengths)
        if numbers is not None:
            pieces_s = [piece_s * float(numbers.lognormal(0, 0.3)) for piece_s in pieces_s]
        came_s = tuple(sorted(draw.uniform(0.0, sum(pieces_s), 5))) if cost.lanes > 1 and sequences > 1 else ()
        beside = replace(shared, came_s=came_s)
        took_s = pass_end_s(pieces_s, beside, cost.lanes, cost.chore_s)
        made.append(TimedPass(sum(lengths), tuple(lengths), took_s, beside))
    return made


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-4, 0.1), st.floats(1e-6, 1e-3), st.floats(0, 1e-3))
def test_a_line_is_found_again(pass_s: float, token_s: float, sequence_s: float) -> None:
    true = PassCost(pass_s, token_s, sequence_s)
    # The device was taken by the pass before it for a second.
    found, error = fit_passes(timed(true, shared=Shared(busy_s=(1.0,))))
    for tokens, sequences in ((100, 1), (3000, 40)):
        assert found.seconds(tokens, sequences) == pytest.approx(true.seconds(tokens, sequences), rel=0.01)
    assert error.p95 < 0.01


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-4, 0.1), st.floats(1e-6, 1e-3), st.sampled_from([2, 4]), st.floats(0, 0.02))
def test_the_line_of_a_core_is_found_again_and_the_chores_of_requests(
    pass_s: float, token_s: float, lanes: int, chore_s: float
) -> None:
    true = PassCost(pass_s, token_s, lanes=lanes, chore_s=chore_s)
    # Chores that outlast nearly every batch delay it as long as even longer chores do, so their length cannot be found.
    assume(chore_s <= 4 * true.seconds(100, 1))
    found, error = fit_passes(timed(true), lanes)
    assert found.seconds(100, 1) == pytest.approx(true.seconds(100, 1), rel=0.01)
    assert found.chore_s == pytest.approx(chore_s, rel=0.05, abs=2e-4)
    assert error.p95 < 0.02


def test_a_pass_that_waits_for_its_unluckiest_piece_makes_no_line_steeper_and_no_core_slower() -> None:
    true = PassCost(0.005, 3e-4, lanes=2, chore_s=0.03)
    found, _ = fit_passes(timed(true, np.random.default_rng(4), 2000), 2)
    # The mean of a lognormal lies above its median.
    assert found.seconds(200, 1) == pytest.approx(true.seconds(200, 1) * np.exp(0.3**2 / 2), rel=0.05)
    assert found.chore_s == pytest.approx(0.03, rel=0.25)


def test_noise_moves_a_line_to_neither_side_and_is_kept_as_its_spread() -> None:
    true = PassCost(0.005, 3e-4, 1e-3)
    found, error = fit_passes(timed(true, np.random.default_rng(4), 2000))
    assert found.seconds(2000, 30) == pytest.approx(true.seconds(2000, 30) * np.exp(0.3**2 / 2), rel=0.03)
    assert error.median == pytest.approx(0.2, abs=0.05)
    assert np.mean(found.spread) == pytest.approx(1.0, abs=1e-3)
    assert np.percentile(found.spread, 84) == pytest.approx(np.exp(0.3), rel=0.1)


def test_no_part_of_a_fitted_line_is_negative() -> None:
    # Larger passes that are faster: noise, whatever a line would make of it.
    found, _ = fit_passes([TimedPass(tokens, (tokens,), 1.0 / tokens) for tokens in (1, 10, 100)])
    assert min(found.pass_s, found.token_s, found.sequence_s) >= 0


def test_steps_of_generation_are_fitted_over_the_cache_and_what_reading_costs() -> None:
    true = DecodeCost(0.002, 1e-5, 1e-6, 1e-8, 0.001)
    draw = np.random.default_rng(3).integers(1, 500, (300, 3)) * [1, 1, 100]
    shapes = [(*map(int, row), number % 2 == 0) for number, row in enumerate(draw)]
    steps = [TimedStep(*shape, true.seconds(*shape[:3], reads=shape[3])) for shape in shapes]
    found, error = fit_steps(steps, StepRuns(1, (2, 4), (64,)))
    for reads in (False, True):
        expected = true.seconds(100, 64, 20_000, reads=reads)
        assert found.seconds(100, 64, 20_000, reads=reads) == pytest.approx(expected, rel=0.01)
    assert found.runs == StepRuns(1, (2, 4), (64,))
    assert error.p95 < 0.01


def test_what_was_captured_is_what_a_step_computes() -> None:
    runs = StepRuns(1, (2, 4, 8), (64, 128))
    assert [runs.computed(rows, 0) for rows in (0, 1, 3, 8, 9)] == [(0, 0), (2, 0), (4, 0), (8, 0), (9, 0)]
    assert [runs.computed(0, tokens) for tokens in (1, 64, 65, 500)] == [(0, 64), (0, 64), (0, 128), (0, 500)]
    assert StepRuns().computed(3, 65) == (3, 65)
    for wrong in ((8, 4), (0, 2)):
        with pytest.raises(ValueError, match="takes increasing numbers of 1 or more"):
            StepRuns(0, wrong)
    with pytest.raises(ValueError, match="ahead 2: takes 0 or 1"):
        StepRuns(2)


def test_a_line_takes_passes_that_were_measured() -> None:
    for passes in ([], [TimedPass(1, (1,), 0.0)], [TimedPass(1, (1,), float("nan"))]):
        for lanes in (1, 2):
            with pytest.raises(ValueError, match=r"at least one measurement|measured batches were one text"):
                fit_passes(8 * passes, lanes)


@given(SIZES)
def test_a_file_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int, int]
) -> None:
    file = tmp_path_factory.mktemp("cost") / "cost.json"
    cost = CostModel(
        PassCost(0.001 * size[1], 1e-6 * size[0], lanes=size[1], spread=(0.5, 1.5), chore_s=0.002), PassCost(0.1, 0.2),
        DecodeCost(0.1, 0.2, runs=StepRuns(1, (2, 4), (64,))), 0.0005, {"model": "one"},
    )  # fmt: skip
    write_cost(file, cost)
    assert read_cost(file) == cost


def test_the_packaged_costs_can_be_read() -> None:
    assert read_cost(DEFAULT_COST).packed.token_s > 0


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"windrow_cost": 2}', "\x00"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cost.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"cost\.json: not a cost file"):
        read_cost(file)


def test_a_cost_below_nothing_is_refused(tmp_path: Path) -> None:
    write_cost(tmp_path / "cost.json", CostModel(PassCost(1, 1), PassCost(1, 1)))
    found = json.loads((tmp_path / "cost.json").read_text())
    found["packed"]["token_s"] = -1
    (tmp_path / "cost.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="seconds of 0 or more"):
        read_cost(tmp_path / "cost.json")


def test_a_file_from_before_requests_had_chores_is_read(tmp_path: Path) -> None:
    write_cost(tmp_path / "cost.json", CostModel(PassCost(1, 1), PassCost(1, 1, lanes=2)))
    found = json.loads((tmp_path / "cost.json").read_text())
    del found["packed"]["chore_s"], found["padded"]["chore_s"]
    (tmp_path / "cost.json").write_text(json.dumps(found))
    assert read_cost(tmp_path / "cost.json").packed == PassCost(1, 1, lanes=2)
