"""``windrow tune``: measures batches on this device and recommends settings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.lab_options import local_model, require_writable
from windrow.cli.output import Json, errors_reported, log, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from windrow.lab.costs.cost import CostModel
    from windrow.lab.costs.fitting import FitError
    from windrow.scheduler.config.model_settings import ModelSettings

#: The kind of the timings of text generation.
GENERATION = "steps"


def tune(
    model: Annotated[str | None, typer.Argument(help="Model of the settings; default: the first.")] = None,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Cost file to write.")] = Path("windrow-cost.json"),
    seconds: Annotated[float, typer.Option(min=1, help="Approximate duration of the measurement, in seconds.")] = 60.0,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Largest batch to measure, in requests.")] = 256,
    from_run: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", exists=True, dir_okay=False, help="Use the batches of this recorded run instead; repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure batches of a model on this device up to its memory limit, and write a cost file for the simulator.

    For a model that generates text, measure its steps. With --from, fit the costs to runs that `windrow bench record`
    wrote, which include everything else that a server does.
    """
    with errors_reported(as_json, "lab,worker"):
        if from_run and model is not None:
            raise ValueError(f"takes MODEL or --from, not both (got {model!r} and {from_run[0]})")
        require_writable(out, "--out")
        report = _fit_runs(from_run) if from_run else _time_model(model, seconds, max_batch_size)
        cost: CostModel = report.pop("cost")
        from windrow.lab.costs.cost import write_cost

        write_cost(out, cost)
        report = {**report, "cost": asdict(cost), "file": str(out)}
        for warning in report["warnings"]:
            log(f"warning: {warning}")
        print_json(report) if as_json else _show(report)


def _time_model(model: str | None, seconds: float, max_batch_size: int) -> dict[str, Any]:
    from windrow.scheduler.config.settings import load_settings

    name = model or next(iter(load_settings().models))
    settings = local_model("MODEL", name)
    measure = _time_steps if settings.task == "generate" else _time_passes
    return measure(name, settings, seconds, max_batch_size)


def _time_passes(name: str, settings: ModelSettings, seconds: float, max_batch_size: int) -> dict[str, Any]:
    from windrow.lab.costs.cost import CostModel
    from windrow.lab.costs.fitting import fit_passes
    from windrow.lab.tune.passes import recommend, tune_model

    info, timings, cores = tune_model(name, settings, seconds, max_batch_size, log)
    fits = {kind: fit_passes(timed.passes, cores) for kind, timed in timings.items()}
    best = "packed" if "packed" in timings else "dynamic"
    chosen = recommend(timings[best].curve)
    about = {
        "model": name, "device": f"{cores} CPU cores" if info.device == "cpu" else info.device, "dtype": info.dtype,
        "fit": _errors({kind: error for kind, (_, error) in fits.items()}),
    }  # fmt: skip
    return {
        "cost": CostModel(fits["dynamic"][0], fits[best][0], about=about),
        "curve": {kind: [asdict(point) for point in timed.curve] for kind, timed in timings.items()},
        "ran_out_tokens": {kind: timed.ran_out_tokens for kind, timed in timings.items()},
        "recommended": {
            "strategy": best if best == "packed" else "bucket",
            "max_batch_size": chosen.batch_size,
            "max_batch_tokens": chosen.tokens,
        },
        "warnings": [
            _too_little_time(f"{kind} batches of at most {timed.curve[-1].batch_size} requests", seconds)
            for kind, timed in timings.items()
            if timed.is_cut
        ],
    }


def _time_steps(name: str, settings: ModelSettings, seconds: float, max_batch_size: int) -> dict[str, Any]:
    from windrow.lab.costs.cost import CostModel
    from windrow.lab.costs.fitting import fit_steps
    from windrow.lab.tune.step_timing import runs_of
    from windrow.lab.tune.steps import recommend_steps, tune_generation

    info, timings = tune_generation(name, settings, seconds, max_batch_size, log)
    cost, error = fit_steps(timings.steps, runs_of(info))
    about = {"model": name, "device": info.device, "dtype": info.dtype, "fit": _errors({GENERATION: error})}
    most = max(point.sequences for point in timings.curve)
    return {
        "cost": CostModel(None, None, cost, about=about),
        "curve": {GENERATION: [asdict(point) for point in timings.curve]},
        "recommended": {
            "strategy": "continuous",
            **recommend_steps(cost, timings, settings.max_batch_tokens),
            "cache_tokens": (info.pages or 0) * (info.page_tokens or 0),
        },
        "warnings": [_too_little_time(f"at most {most} sequences, and not all cache lengths", seconds)]
        if timings.left_out
        else [],
    }


def _too_little_time(timed: str, seconds: float) -> str:
    return (
        f"{seconds:g} s were enough to measure {timed}: larger values are extrapolated and not recommended; "
        "increase --seconds or reduce --max-batch-size"
    )


def _fit_runs(paths: list[Path]) -> dict[str, Any]:
    from windrow.lab.measure.run_file import generates

    kinds = {generates(path) for path in paths}
    if len(kinds) > 1:
        raise ValueError("--from: takes runs of one model; some of these runs generate text and some do not")
    return _fit_run_steps(paths) if kinds == {True} else _fit_run_passes(paths)


def _fit_run_steps(paths: list[Path]) -> dict[str, Any]:
    from windrow.lab.costs.cost import CostModel
    from windrow.lab.costs.fitting import fit_steps
    from windrow.lab.measure.step_recording import read_generation

    runs = [read_generation(path) for path in paths]
    steps = [step for run in runs for step in run.typical_steps()]
    if not steps:
        raise ValueError(
            f"--from {paths[0]}: the run has no steps; takes a file that `windrow bench record --engine` wrote"
        )
    cost, error = fit_steps(steps, runs[0].runs)
    handover_s = median([run.handover_s() for run in runs])
    about = _about_runs(runs[0].about, paths, {GENERATION: error})
    return {"cost": CostModel(None, None, cost, round(handover_s, 6), about), "warnings": []}


def _fit_run_passes(paths: list[Path]) -> dict[str, Any]:
    from windrow.lab.costs.cost import CostModel
    from windrow.lab.costs.fitting import TimedPass, fit_passes
    from windrow.lab.measure.recording import read_recording

    passes: dict[str, list[TimedPass]] = {}
    runs = [read_recording(path) for path in paths]
    for run in runs:
        passes.setdefault("packed" if run.policy.strategy == "packed" else "padded", []).extend(run.passes())
    # The fit models the CPU cores of the machine that made the run.
    fits = {kind: fit_passes(timed, int(runs[0].about.get("lanes", 1))) for kind, timed in passes.items()}
    # If no run has padded batches, use packed batches for both, and the reverse.
    padded, packed = fits.get("padded", fits.get("packed")), fits.get("packed", fits.get("padded"))
    assert padded is not None
    assert packed is not None
    about = _about_runs(runs[0].about, paths, {kind: error for kind, (_, error) in fits.items()})
    handover_s = median([run.handover_s() for run in runs])
    return {"cost": CostModel(padded[0], packed[0], None, round(handover_s, 6), about), "warnings": []}


def _about_runs(about: Mapping[str, Any], paths: list[Path], errors: dict[str, FitError]) -> dict[str, Any]:
    return {
        "model": about.get("model", "a model"), "device": about.get("device", "as recorded"), "fit": _errors(errors),
        "runs": [path.name for path in paths],
    }  # fmt: skip


def _errors(errors: dict[str, FitError]) -> dict[str, Any]:
    return {
        kind: {"passes": error.passes, "median_error": round(error.median, 4), "p95_error": round(error.p95, 4)}
        for kind, error in errors.items()
    }


def _show(report: dict[str, Any]) -> None:
    from windrow.lab.report.tables import show_report
    from windrow.lab.tune.tables import curve_rows, pass_rows, step_rows

    cost = report["cost"]
    curves = {
        f"Batches of mixed lengths, {kind}" if kind != GENERATION else "Sequences that decode": curve_rows(points)
        for kind, points in report.get("curve", {}).items()
    }
    tables = curves | {"Cost of batches": pass_rows(cost), "Cost of steps": step_rows(cost)}
    notes = [
        f"from submit to an idle device: {cost['handover_s'] * 1e3:.2f} ms",
        *(f"{name} = {value!r}" for name, value in report.get("recommended", {}).items()),
        f"written to {report['file']}",
    ]
    show_report({}, tables.items(), notes)
