"""``windrow tune``: what passes take on this device, and which settings suit it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.lab_options import Json
from windrow.cli.output import errors_reported, print_json

if TYPE_CHECKING:
    from scheduler.lab.cost import CostModel, FitError


def tune(
    model: Annotated[str | None, typer.Argument(help="A model of the settings; the first when left out.")] = None,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Cost file to write.")] = Path("windrow-cost.json"),
    seconds: Annotated[float, typer.Option(min=1, help="About how long to measure.")] = 60.0,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Largest row to time.")] = 256,
    from_run: Annotated[
        list[Path] | None,
        typer.Option("--from", exists=True, dir_okay=False, help="Take the passes of this recorded run instead."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time forward passes of a model on this device until memory is out, and write what they cost for the simulator.

    With --from, fit the passes of runs that `windrow bench record` wrote: beside everything else that a server does.
    """
    with errors_reported(as_json):
        report = _fit_runs(from_run) if from_run else _time_model(model, seconds, max_batch_size)
        cost: CostModel = report.pop("cost")
        from scheduler.lab.cost import write_cost

        write_cost(out, cost)
        report = {**report, "cost": asdict(cost), "file": str(out)}
        print_json(report) if as_json else _show(report)


def _time_model(model: str | None, seconds: float, max_batch_size: int) -> dict[str, Any]:
    from scheduler.core.errors import UnknownModel
    from scheduler.lab.cost import CostModel, fit_passes
    from scheduler.settings import load_settings
    from windrow.lab.tuning import recommend, tune_model

    models = load_settings().models
    name = model or next(iter(models))
    if name not in models:
        raise UnknownModel(f"no model {name!r}; there are {', '.join(models)}")
    info, timings, lanes = tune_model(name, models[name], seconds, max_batch_size, _say)
    fits = {kind: fit_passes(timed.passes, lanes) for kind, timed in timings.items()}
    best = "packed" if "packed" in timings else "dynamic"
    chosen = recommend(timings[best].curve)
    about = {
        "model": name, "device": f"{lanes} CPU cores" if info.device == "cpu" else info.device, "dtype": info.dtype,
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
    }


def _fit_runs(paths: list[Path]) -> dict[str, Any]:
    from scheduler.lab.cost import CostModel, TimedPass, fit_passes
    from scheduler.lab.recording import read_recording

    passes: dict[str, list[TimedPass]] = {}
    runs = [read_recording(path) for path in paths]
    for run in runs:
        passes.setdefault("packed" if run.policy.strategy == "packed" else "padded", []).extend(run.passes())
    # A lane is a core of this machine: where the run was made is where it is fitted.
    fits = {kind: fit_passes(timed, _lanes(runs[0].about)) for kind, timed in passes.items()}
    # One kind stands in for the other where no run has it.
    padded, packed = fits.get("padded", fits.get("packed")), fits.get("packed", fits.get("padded"))
    assert padded is not None
    assert packed is not None
    about = {
        "model": runs[0].about.get("model", "a model"), "device": runs[0].about.get("device", "as recorded"),
        "fit": _errors({kind: error for kind, (_, error) in fits.items()}),
        "runs": [path.name for path in paths],
    }  # fmt: skip
    handover_s = median([run.handover_s() for run in runs])
    return {"cost": CostModel(padded[0], packed[0], None, round(handover_s, 6), about)}


def _lanes(about: Any) -> int:
    return int(about.get("lanes", 1))


def _errors(errors: dict[str, FitError]) -> dict[str, Any]:
    return {
        kind: {"passes": one.passes, "median_error": round(one.median, 4), "p95_error": round(one.p95, 4)}
        for kind, one in errors.items()
    }


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    from windrow.lab.tables import number, show

    console = Console()
    for kind, points in report.get("curve", {}).items():
        heads = ["batch", "requests/s", "tokens/s", "ms", "tokens"]
        rows = [[str(one["batch_size"]), *(number(one[name]) for name in
                 ("throughput_per_s", "tokens_per_s", "latency_ms", "tokens"))] for one in points]  # fmt: skip
        show(console, f"Rows of mixed lengths, {kind}", [heads, *rows])
    lines = [["passes", "a pass, ms", "a token, us", "a request, us", "lanes", "off by, median", "p95"]]
    for kind in ("padded", "packed"):
        cost = report["cost"][kind]
        fit = report["cost"]["about"]["fit"]
        error = fit.get(kind) or fit.get("dynamic") or fit["packed"]
        parts = (cost["pass_s"] * 1e3, cost["token_s"] * 1e6, cost["sequence_s"] * 1e6)
        misses = (f"{error[name]:.1%}" for name in ("median_error", "p95_error"))
        lines.append([kind, *map(number, parts), str(cost["lanes"]), *misses])
    show(console, "What passes cost", lines)
    console.print(f"from a submit to an idle device: {report['cost']['handover_s'] * 1e3:.2f} ms", highlight=False)
    if "recommended" in report:
        for name, value in report["recommended"].items():
            console.print(f"{name} = {value!r}", markup=False, highlight=False)
    console.print(f"written to {report['file']}", markup=False, highlight=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
