"""Options of `windrow simulate`, `plan`, `tune` and `bench`, and the functions that parse them."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS
from windrow.scheduler.core.planning import PLANNERS, BatchLimits

if TYPE_CHECKING:
    from windrow.lab.simulate.device import Policy
    from windrow.lab.simulate.outcome import Failure
    from windrow.lab.simulate.workload import Flow
    from windrow.lab.simulate.workload_options import Traffic
    from windrow.scheduler.config.model_settings import ModelSettings

#: Measured costs of the default model on two CPU cores.
DEFAULT_COST = Path(__file__).parents[1] / "lab" / "minilm-cpu.json"
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

Pattern = Annotated[str, typer.Option(help="Arrival pattern: poisson, bursts, diurnal or ramp.")]
Rate = Annotated[float | None, typer.Option(help="Mean requests per second; the default for a trace is its own rate.")]
Requests = Annotated[int | None, typer.Option(min=1, help="Number of requests; the default for a trace is all of it.")]
Trace = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Read arrival times and input lengths from this trace.")
]
MedianTokens = Annotated[float, typer.Option(min=1, help="Median input length, in tokens.")]
Sigma = Annotated[float, typer.Option(min=0, help="Sigma of the lognormal distribution of input lengths.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Maximum input length, in tokens.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", help="NAME[:high|normal|low[:SHARE[:WEIGHT]]]; repeat it for each tenant."),
]
Cost = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Cost file written by `windrow tune`.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed of the requests.")]
Report = Annotated[Path | None, typer.Option(file_okay=False, help="Folder to write report.html and report.png to.")]
Generate = Annotated[bool, typer.Option(help="Simulate text generation: none, static, continuous or chunked.")]
MedianOutput = Annotated[float, typer.Option(min=1, help="Median completion length in tokens, without a trace.")]
MaxOutput = Annotated[int, typer.Option(min=1, help="Maximum completion length, in tokens.")]
CacheTokens = Annotated[int, typer.Option(min=16, max=100_000_000, help="KV-cache size of a device, in tokens.")]
MaxWait = Annotated[str, typer.Option(help="Batching window in milliseconds, or auto.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Maximum tokens per batch, padding included.")]


def seconds(text: str, name: str) -> float:
    """Parse ``300ms``, ``1.5s`` or ``2m`` into seconds. Raises `ValueError` that names the option."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|h)\s*", text)
    value = float(match[1]) * UNITS_S[match[2]] if match else 0.0
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {text!r}: takes a time above 0 with its unit, such as 300ms or 1.5s")
    return value


def read_wait_s(text: str) -> float | None:
    """Parse ``--max-wait-ms`` into seconds; None for ``auto``. Raises `ValueError`."""
    if text == "auto":
        return None
    try:
        wait_ms = float(text)
    except ValueError:
        wait_ms = math.nan
    if not 0 <= wait_ms <= 60_000:
        raise ValueError(f"--max-wait-ms {text!r}: takes milliseconds from 0 to 60,000, or auto")
    return wait_ms / 1e3


def read_flows(texts: list[str] | None) -> tuple[Flow, ...]:
    """Parse ``--tenant`` options into flows; without any, return one flow of the default tenant."""
    from windrow.lab.simulate.workload import Flow

    flows = tuple(_flow(text) for text in texts) if texts else (Flow(),)
    names = [flow.name for flow in flows]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"--tenant: {name} is given {names.count(name)} times; takes each tenant and priority once"
            )
    return flows


def _flow(text: str) -> Flow:
    from windrow.lab.simulate.workload import Flow

    tenant, priority, share, weight = (*text.split(":"), "", "", "")[:4]
    try:
        flow = Flow(tenant, priority or "normal", float(weight or 1), float(share or 1))
    except ValueError:
        flow = None
    is_valid = flow is not None and tenant and priority in ("", *PRIORITY_WEIGHTS) and text.count(":") <= 3
    if flow is None or not is_valid or not (0 < flow.share < math.inf and 0 < flow.tenant_weight < math.inf):
        raise ValueError(
            f"--tenant {text!r}: takes NAME[:PRIORITY[:SHARE[:WEIGHT]]], with priority high, normal or low, and share "
            f"and weight above 0, such as acme:high:0.2"
        )
    return flow


def read_traffic(given: Mapping[str, Any], default_requests: int | None = None) -> Traffic:
    """Build the workload from the parameters of a command; ``default_requests`` applies without a trace."""
    from windrow.lab.simulate.workload_options import Traffic

    requests = given["requests"]
    trace = None if given["trace"] is None else Path(given["trace"])  # the context has paths as text
    return Traffic(
        given["pattern"],
        given["rate"],
        default_requests if requests is None and trace is None else requests,
        trace,
        given["median_tokens"],
        given["sigma"],
        given["max_tokens"],
        read_flows(given["tenant"]),
        given["seed"],
        (given["median_output"], given["max_output"]) if given["generate"] else None,
    )


def read_failures(texts: list[str] | None) -> tuple[Failure, ...]:
    """Parse ``--fail WHEN:DEVICE:HOW_LONG`` options, such as ``10s:0:5s``. Raises `ValueError`."""
    return tuple(_failure(text) for text in texts or ())


def _failure(text: str) -> Failure:
    from windrow.lab.simulate.outcome import Failure

    parts = text.split(":")
    if len(parts) != 3 or not parts[1].isdecimal():
        raise ValueError(f"--fail {text!r}: takes WHEN:DEVICE:HOW_LONG, with devices counted from 0, such as 10s:0:5s")
    return Failure(seconds(parts[0], "--fail"), int(parts[1]), seconds(parts[2], "--fail"))


def policy_of(
    strategy: str, max_batch_size: int, max_batch_tokens: int, max_wait_s: float | None, longest_tokens: int
) -> Policy:
    """Return the policy that a worker has with these settings; ``static`` pads to ``longest_tokens``."""
    from windrow.lab.simulate.device import Policy
    from windrow.scheduler.config.model_settings import ModelSettings

    buckets = ModelSettings.model_fields["buckets"].default
    limits = BatchLimits(max_batch_size, max_batch_tokens, buckets, static_length=longest_tokens)
    return Policy(strategy, limits, max_wait_s)


def strategies(names: list[str] | None, generates: bool = False) -> list[str]:
    """Expand ``--strategy`` options: ``all`` into every strategy, none into the default. Raises `ValueError`."""
    from windrow.lab.simulate.generation import GENERATION

    known = GENERATION if generates else PLANNERS
    for name in names or ():
        if name not in (*known, "all"):
            raise ValueError(f"--strategy {name!r}: takes {', '.join(known)} or all")
    if "all" in (names or ()):
        return list(known)
    return list(dict.fromkeys(names)) if names else ["continuous" if generates else "packed"]


def check_pattern(pattern: str) -> None:
    """Raise `ValueError` for an unknown ``--pattern``."""
    from windrow.lab.simulate.workload import PATTERNS

    if pattern not in PATTERNS:
        raise ValueError(f"--pattern {pattern!r}: takes {', '.join(PATTERNS)}")


def local_model(option: str, name: str, *others: str) -> ModelSettings:
    """Return the settings of a model that runs on this machine; ``others`` are further values of the option.

    Raises `UnknownModel`, and `ValueError` for a model of another server.
    """
    from windrow.errors import UnknownModel
    from windrow.scheduler.config.settings import load_settings

    models = load_settings().models
    if name not in models:
        raise UnknownModel(f"{option} {name!r}: takes {', '.join([*others, *models])}")
    if models[name].task == "upstream":
        raise ValueError(
            f"{option} {name!r}: takes a model that runs on this machine; this model runs on another server"
        )
    return models[name]


def refuse(context: typer.Context, names: Collection[str], why: str) -> None:
    """Raise `ValueError` if one of the parameters ``names`` was given, because it would have no effect."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name != "DEFAULT":
            raise ValueError(f"{parameter.opts[0]} does nothing {why}")


def require_writable(path: Path, name: str) -> None:
    """Raise `ValueError` if the file of option ``name`` cannot be written, before any work is done."""
    is_new = not path.exists()
    try:
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ValueError(f"{name} {path}: cannot be written: {error.strerror}") from None


@contextmanager
def many_objects(report: Path | None) -> Iterator[None]:
    """Check that ``report`` can be written, then pause the garbage collector: millions of objects have no cycles."""
    from windrow.lab.report.page import check_report

    check_report(report)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
