"""``windrow bench record``: what its options mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from windrow.cli.lab_options import policy_of, read_wait_s, strategies
from windrow.lab.measure.cost import read_cost
from windrow.lab.measure.recording import Recording, write_recording
from windrow.lab.measure.step_recording import GenerationRecording, write_generation
from windrow.lab.simulate.workload import PATTERNS

Say = Callable[[str], None]


class Asked(NamedTuple):
    """The options."""

    engine: str | None
    rate: float
    requests: int
    pattern: str
    strategy: str | None
    max_wait_ms: str | None
    scale: float
    seed: int
    pretend: Path | None


def run(asked: Asked, out: Path, say: Say) -> None:
    """Record and write. Raises `ValueError` for what means nothing, `BenchFailed` for what fails."""
    if asked.pattern not in PATTERNS:
        raise ValueError(f"--pattern {asked.pattern!r}; there are {', '.join(PATTERNS)}")
    if asked.engine is not None and asked.pretend is not None:
        raise ValueError("takes one of --engine and --pretend")
    if asked.scale != 1 and not _generates(asked.engine):
        raise ValueError("--scale takes an --engine that generates text")
    made = _of_model(asked, say) if asked.engine is None else _of_engine(asked.engine, asked, say)
    if isinstance(made, GenerationRecording):
        write_generation(out, made)
    else:
        write_recording(out, made)


def _of_model(asked: Asked, say: Say) -> Recording:
    """The default model, behind the API or pretended."""
    (strategy,) = strategies([asked.strategy or "packed"])
    wait_s = read_wait_s(asked.max_wait_ms or "5")
    if asked.pretend is None:
        from windrow.bench.record.run import record

        return record(asked.pattern, asked.rate, asked.requests, strategy, wait_s, asked.seed, say)
    from windrow.bench.record.paced import record_paced
    from windrow.bench.workload import ROW, model_settings

    policy = policy_of(strategy, ROW, model_settings().max_batch_tokens, wait_s, 256)
    return record_paced(policy, read_cost(asked.pretend), asked.pattern, asked.rate, asked.requests, asked.seed, say)


def _of_engine(name: str, asked: Asked, say: Say) -> Recording | GenerationRecording:
    from windrow.bench.record.engine import Load, record_engine

    settings = _settings_of(name)
    changes: dict[str, Any] = {}
    if asked.strategy is not None:
        changes["strategy"] = asked.strategy
    if asked.max_wait_ms is not None:
        if settings.task == "generate":
            raise ValueError("--max-wait-ms takes a model that answers in one pass: nobody waits for company in steps")
        wait_s = read_wait_s(asked.max_wait_ms)
        changes["max_wait_ms"] = "auto" if wait_s is None else wait_s * 1e3
    # Checked as the settings themselves are.
    settings = type(settings).model_validate({**settings.model_dump(exclude_unset=True), **changes})
    return record_engine(Load(name, settings, asked.pattern, asked.rate, asked.requests, asked.seed, asked.scale), say)


def _generates(engine: str | None) -> bool:
    return engine is not None and _settings_of(engine).task == "generate"


def _settings_of(name: str) -> Any:
    from windrow.errors import UnknownModel
    from windrow.scheduler.config.settings import load_settings

    models = load_settings().models
    if name not in models:
        raise UnknownModel(f"--engine {name!r}: takes a model of the settings: {', '.join(models)}")
    if models[name].task == "upstream":
        raise ValueError(f"--engine {name!r}: takes a model that runs here; this one is a server's")
    return models[name]
