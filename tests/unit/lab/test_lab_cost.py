"""Cost models: fitting recovers the true costs from measurements, and invalid cost files are refused."""

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


def measure_passes(
    cost: PassCost, numbers: np.random.Generator | None = None, count: int = 400, shared: Shared = ALONE
) -> list[TimedPass]:
    draw = np.random.default_rng(2)
    passes = []
    for _ in range(count):
        sequences = int(draw.choice([1, 1, 2, 5, 20, 60]))
        lengths = draw.integers(1, 256, sequences).tolist()
        pieces_s = cost.cut_s(lengths)
        if numbers is not None:
            pieces_s = [piece_s * float(numbers.lognormal(0, 0.3)) for piece_s in pieces_s]
        arrivals_s = tuple(sorted(draw.uniform(0.0, sum(pieces_s), 5))) if cost.lanes > 1 and sequences > 1 else ()
        device = replace(shared, came_s=arrivals_s)
        duration_s = pass_end_s(pieces_s, device, cost.lanes, cost.chore_s)
        passes.append(TimedPass(sum(lengths), tuple(lengths), duration_s, device))
    return passes


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-4, 0.1), st.floats(1e-6, 1e-3), st.floats(0, 1e-3))
def test_fitting_recovers_a_linear_cost(pass_s: float, token_s: float, sequence_s: float) -> None:
    true = PassCost(pass_s, token_s, sequence_s)
    # The previous batch occupied the device for one second.
    found, error = fit_passes(measure_passes(true, shared=Shared(busy_s=(1.0,))))
    for tokens, sequences in ((100, 1), (3000, 40)):
        assert found.seconds(tokens, sequences) == pytest.approx(true.seconds(tokens, sequences), rel=0.01)
    assert error.p95 < 0.01


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-4, 0.1), st.floats(1e-6, 1e-3), st.sampled_from([2, 4]), st.floats(0, 0.02))
def test_fitting_recovers_the_cost_per_core_and_the_chores_of_requests(
    pass_s: float, token_s: float, lanes: int, chore_s: float
) -> None:
    true = PassCost(pass_s, token_s, lanes=lanes, chore_s=chore_s)
    # Chores longer than nearly every batch all cause the same delay, so their length cannot be recovered.
    assume(chore_s <= 4 * true.seconds(100, 1))
    found, error = fit_passes(measure_passes(true), lanes)
    assert found.seconds(100, 1) == pytest.approx(true.seconds(100, 1), rel=0.01)
    assert found.chore_s == pytest.approx(chore_s, rel=0.05, abs=2e-4)
    assert error.p95 < 0.02


def test_noise_in_the_slowest_piece_of_a_pass_does_not_bias_the_fitted_cost() -> None:
    true = PassCost(0.005, 3e-4, lanes=2, chore_s=0.03)
    found, _ = fit_passes(measure_passes(true, np.random.default_rng(4), 2000), 2)
    # The mean of a lognormal distribution is above its median.
    assert found.seconds(200, 1) == pytest.approx(true.seconds(200, 1) * np.exp(0.3**2 / 2), rel=0.05)
    assert found.chore_s == pytest.approx(0.03, rel=0.25)


def test_noise_does_not_bias_the_fitted_cost_and_is_kept_as_its_spread() -> None:
    true = PassCost(0.005, 3e-4, 1e-3)
    found, error = fit_passes(measure_passes(true, np.random.default_rng(4), 2000))
    assert found.seconds(2000, 30) == pytest.approx(true.seconds(2000, 30) * np.exp(0.3**2 / 2), rel=0.03)
    assert error.median == pytest.approx(0.2, abs=0.05)
    assert np.mean(found.spread) == pytest.approx(1.0, abs=1e-3)
    assert np.percentile(found.spread, 84) == pytest.approx(np.exp(0.3), rel=0.1)


def test_no_coefficient_of_a_fitted_cost_is_negative() -> None:
    # Larger passes are faster here, which a linear fit would express with a negative coefficient.
    found, _ = fit_passes([TimedPass(tokens, (tokens,), 1.0 / tokens) for tokens in (1, 10, 100)])
    assert min(found.pass_s, found.token_s, found.sequence_s) >= 0


def test_decode_steps_are_fitted_with_the_costs_of_the_cache_and_of_prefill() -> None:
    true = DecodeCost(0.002, 1e-5, 1e-6, 1e-8, 0.001)
    draw = np.random.default_rng(3).integers(1, 500, (300, 3)) * [1, 1, 100]
    shapes = [(*map(int, shape), number % 2 == 0) for number, shape in enumerate(draw)]
    steps = [TimedStep(*shape, true.seconds(*shape[:3], reads=shape[3])) for shape in shapes]
    found, error = fit_steps(steps, StepRuns(1, (2, 4), (64,)))
    for reads in (False, True):
        expected = true.seconds(100, 64, 20_000, reads=reads)
        assert found.seconds(100, 64, 20_000, reads=reads) == pytest.approx(expected, rel=0.01)
    assert found.runs == StepRuns(1, (2, 4), (64,))
    assert error.p95 < 0.01


def test_a_step_computes_the_next_captured_size() -> None:
    runs = StepRuns(1, (2, 4, 8), (64, 128))
    assert [runs.computed(sequences, 0) for sequences in (0, 1, 3, 8, 9)] == [(0, 0), (2, 0), (4, 0), (8, 0), (9, 0)]
    assert [runs.computed(0, tokens) for tokens in (1, 64, 65, 500)] == [(0, 64), (0, 64), (0, 128), (0, 500)]
    assert StepRuns().computed(3, 65) == (3, 65)
    for invalid in ((8, 4), (0, 2)):
        with pytest.raises(ValueError, match="takes increasing numbers of 1 or more"):
            StepRuns(0, invalid)
    with pytest.raises(ValueError, match="ahead 2: takes 0 or 1"):
        StepRuns(2)


def test_fitting_without_valid_measurements_is_refused() -> None:
    for passes in ([], [TimedPass(1, (1,), 0.0)], [TimedPass(1, (1,), float("nan"))]):
        for lanes in (1, 2):
            with pytest.raises(ValueError, match=r"at least one measurement|measured batches were one text"):
                fit_passes(8 * passes, lanes)


@given(SIZES)
def test_a_cost_file_round_trips(tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int, int]) -> None:
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
def test_an_invalid_cost_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cost.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"cost\.json: not a cost file"):
        read_cost(file)


def test_a_negative_cost_is_refused(tmp_path: Path) -> None:
    write_cost(tmp_path / "cost.json", CostModel(PassCost(1, 1), PassCost(1, 1)))
    document = json.loads((tmp_path / "cost.json").read_text())
    document["packed"]["token_s"] = -1
    (tmp_path / "cost.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="seconds of 0 or more"):
        read_cost(tmp_path / "cost.json")


@pytest.mark.parametrize(("part", "field"), [("padded", "tokn_s"), ("decode", "step_ms")])
def test_an_unknown_field_of_a_cost_file_is_refused_by_name(tmp_path: Path, part: str, field: str) -> None:
    write_cost(tmp_path / "cost.json", CostModel(PassCost(1, 1), PassCost(1, 1), DecodeCost(1, 1)))
    document = json.loads((tmp_path / "cost.json").read_text())
    document[part][field] = 1.0
    (tmp_path / "cost.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"{part}.*{field}: unknown field \(got 1\.0\)"):
        read_cost(tmp_path / "cost.json")


def test_an_older_cost_file_without_chores_is_accepted(tmp_path: Path) -> None:
    write_cost(tmp_path / "cost.json", CostModel(PassCost(1, 1), PassCost(1, 1, lanes=2)))
    document = json.loads((tmp_path / "cost.json").read_text())
    del document["packed"]["chore_s"], document["padded"]["chore_s"]
    (tmp_path / "cost.json").write_text(json.dumps(document))
    assert read_cost(tmp_path / "cost.json").packed == PassCost(1, 1, lanes=2)
