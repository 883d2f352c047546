"""``windrow bench record``: turns its options into a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from windrow.cli.lab_options import check_pattern, local_model, policy_of, read_wait_s, strategies
from windrow.cli.output import log
from windrow.lab.costs.cost import read_cost
from windrow.lab.measure.recording import Recording, write_recording
from windrow.lab.measure.step_recording import GenerationRecording, write_generation


class RecordOptions(NamedTuple):
    """Options of the command."""

    engine: str | None
    rate: float
    requests: int
    pattern: str
    strategy: str | None
    max_wait_ms: str | None
    scale: float
    seed: int
    pretend: Path | None


def run(options: RecordOptions, out: Path) -> None:
    """Record a run and write it to ``out``. Raises `ValueError` for invalid options, `BenchFailed` if the run fails."""
    check_pattern(options.pattern)
    if options.engine is not None and options.pretend is not None:
        raise ValueError("takes one of --engine and --pretend")
    if options.scale != 1 and not _generates(options.engine):
        raise ValueError("--scale takes an --engine that generates text")
    recording = _record_default(options) if options.engine is None else _record_engine(options.engine, options)
    if isinstance(recording, GenerationRecording):
        write_generation(out, recording)
    else:
        write_recording(out, recording)


def _record_default(options: RecordOptions) -> Recording:
    """Record the default model through the API, or with simulated batches."""
    (strategy,) = strategies([options.strategy or "packed"])
    wait_s = read_wait_s(options.max_wait_ms or "5")
    load = (options.pattern, options.rate, options.requests)
    if options.pretend is None:
        from windrow.bench.record.run import record

        return record(*load, strategy, wait_s, options.seed, log)
    from windrow.bench.record.paced import record_paced
    from windrow.bench.workload import BATCH_SIZE, model_settings

    policy = policy_of(strategy, BATCH_SIZE, model_settings().max_batch_tokens, wait_s, 256)
    return record_paced(policy, read_cost(options.pretend), *load, options.seed, log)


def _record_engine(name: str, options: RecordOptions) -> Recording | GenerationRecording:
    from windrow.bench.record.engine import Load, record_engine

    settings = local_model("--engine", name)
    changes: dict[str, Any] = {}
    if options.strategy is not None:
        changes["strategy"] = options.strategy
    if options.max_wait_ms is not None:
        if settings.task == "generate":
            raise ValueError("--max-wait-ms takes a model that does not generate text: generation has no window")
        wait_s = read_wait_s(options.max_wait_ms)
        changes["max_wait_ms"] = "auto" if wait_s is None else wait_s * 1e3
    # Validated like the settings.
    settings = type(settings).model_validate({**settings.model_dump(exclude_unset=True), **changes})
    load = Load(name, settings, options.pattern, options.rate, options.requests, options.seed, options.scale)
    return record_engine(load, log)


def _generates(engine: str | None) -> bool:
    return engine is not None and local_model("--engine", engine).task == "generate"
