"""``windrow bench record``: turns its options into a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.lab_options import (
    Pattern,
    Seed,
    check_pattern,
    local_model,
    policy_of,
    read_wait_s,
    require_writable,
    strategies,
)
from windrow.cli.load_options import problems_reported
from windrow.cli.output import log

if TYPE_CHECKING:
    from windrow.bench.record.load import Load
    from windrow.lab.measure.recording import Recording
    from windrow.lab.measure.step_recording import GenerationRecording

NO_SCALE = "--scale takes an --engine that generates text"


def record(
    out: Annotated[Path, typer.Argument(dir_okay=False, help="File to write, with one JSON line per request.")],
    engine: Annotated[
        str | None,
        typer.Option(help="Model of the settings, measured at the queue; default: minilm, measured through the API."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second, sent without waiting for results.")] = 40.0,
    requests: Annotated[int, typer.Option(min=10, help="Number of requests.")] = 2000,
    pattern: Pattern = "poisson",
    strategy: Annotated[
        str | None,
        typer.Option(help="Batching strategy; default: the setting of the model, or packed without --engine."),
    ] = None,
    max_wait_ms: Annotated[
        str | None,
        typer.Option(
            help="Batching window in milliseconds, or auto; default: the setting of the model, or 5 without --engine."
        ),
    ] = None,
    scale: Annotated[
        float, typer.Option(min=0.02, max=1, help="Text generation only: factor that shortens prompts and completions.")
    ] = 1.0,
    seed: Seed = 0,
    pretend: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Start no server: each batch sleeps as long as this cost file says."
        ),
    ] = None,
) -> None:
    """Record a run against a real server, for `windrow simulate --against` and `windrow tune --from`."""
    with problems_reported():
        from windrow.bench.record.load import Load
        from windrow.lab.measure.recording import write_recording
        from windrow.lab.measure.step_recording import GenerationRecording, write_generation

        require_writable(out, "OUT")
        check_pattern(pattern)
        if engine is not None and pretend is not None:
            raise ValueError("takes one of --engine and --pretend")
        load = Load(pattern, rate, requests, seed)
        if engine is not None:
            recording = _record_engine(engine, load, strategy, max_wait_ms, scale)
        elif scale != 1:
            raise ValueError(NO_SCALE)
        else:
            recording = _record_default(load, strategy, max_wait_ms, pretend)
        if isinstance(recording, GenerationRecording):
            write_generation(out, recording)
        else:
            write_recording(out, recording)


def _record_default(load: Load, strategy: str | None, max_wait_ms: str | None, pretend: Path | None) -> Recording:
    """Record the default model through the API, or with simulated batches."""
    (strategy,) = strategies([strategy or "packed"])
    wait_s = read_wait_s(max_wait_ms or "5")
    if pretend is None:
        from windrow.bench.record.run import record

        return record(load, strategy, wait_s, log)
    from windrow.bench.record.paced import record_paced
    from windrow.bench.workload import BATCH_SIZE, model_settings
    from windrow.lab.costs.cost import read_cost

    policy = policy_of(strategy, BATCH_SIZE, model_settings().max_batch_tokens, wait_s, 256)
    return record_paced(policy, read_cost(pretend), load, log)


def _record_engine(
    name: str, load: Load, strategy: str | None, max_wait_ms: str | None, scale: float
) -> Recording | GenerationRecording:
    from windrow.bench.record.engine import record_engine

    settings = local_model("--engine", name)
    if scale != 1 and settings.task != "generate":
        raise ValueError(NO_SCALE)
    changes: dict[str, Any] = {} if strategy is None else {"strategy": strategy}
    if max_wait_ms is not None:
        if settings.task == "generate":
            raise ValueError("--max-wait-ms takes a model that does not generate text: generation has no window")
        wait_s = read_wait_s(max_wait_ms)
        changes["max_wait_ms"] = "auto" if wait_s is None else wait_s * 1e3
    # Validated like the settings.
    settings = type(settings).model_validate({**settings.model_dump(exclude_unset=True), **changes})
    return record_engine(name, settings, load, scale, log)
