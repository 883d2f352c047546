"""Options that the commands of the laboratory share, and what is read from them."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS
from windrow.scheduler.core.planning import PLANNERS, BatchLimits

if TYPE_CHECKING:
    from windrow.lab.simulate.device import Policy
    from windrow.lab.simulate.simulation import Failure
    from windrow.lab.simulate.workload import Flow

#: Packaged costs, of the default model on two cores.
DEFAULT_COST = Path(__file__).parents[1] / "lab" / "minilm-cpu.json"
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

Pattern = Annotated[str, typer.Option(help="How requests arrive: poisson, bursts, diurnal or ramp.")]
Rate = Annotated[float | None, typer.Option(help="Requests a second on average; of a trace, its own when left out.")]
Requests = Annotated[int | None, typer.Option(min=1, help="How many; of a trace, all of it when left out.")]
Trace = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Take arrivals and lengths from this trace.")
]
MedianTokens = Annotated[float, typer.Option(min=1, help="Median length of the inputs, in tokens.")]
Sigma = Annotated[float, typer.Option(min=0, help="Spread of the lengths: sigma of the lognormal.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest input, in tokens.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", help="NAME[:high|normal|low[:SHARE[:WEIGHT]]]; give it once for each who sends."),
]
Cost = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, help="What passes take, as `windrow tune` measured it.")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed draws the same requests.")]
Report = Annotated[
    Path | None, typer.Option(file_okay=False, help="Write report.html and report.png into this folder.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, everything else on stderr.")]
MaxWait = Annotated[str, typer.Option(help="How long a row waits for company, in milliseconds, or auto.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Tokens of a pass, padding included.")]


def seconds(text: str, name: str) -> float:
    """``300ms``, ``1.5s`` or ``2m`` -> seconds. Raises `ValueError` naming the option."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|h)\s*", text)
    value = float(match[1]) * UNITS_S[match[2]] if match else 0.0
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {text!r}; it takes a time above 0 with its unit, such as 300ms or 1.5s")
    return value


def read_wait_s(text: str) -> float | None:
    """``--max-wait-ms`` in seconds; None for ``auto``."""
    if text == "auto":
        return None
    try:
        wait_ms = float(text)
    except ValueError:
        wait_ms = math.nan
    if not 0 <= wait_ms <= 60_000:
        raise ValueError(f"--max-wait-ms is {text!r}; it takes milliseconds from 0 to 60,000, or auto")
    return wait_ms / 1e3


def read_flows(texts: list[str] | None) -> tuple[Flow, ...]:
    """``--tenant`` options as flows; one of the default tenant where there are none."""
    from windrow.lab.simulate.workload import Flow

    flows = tuple(_flow(text) for text in texts) if texts else (Flow(),)
    names = [flow.name for flow in flows]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"--tenant: {name} is given {names.count(name)} times; it takes each tenant and priority once"
            )
    return flows


def _flow(text: str) -> Flow:
    from windrow.lab.simulate.workload import Flow

    tenant, priority, share, weight = (*text.split(":"), "", "", "")[:4]
    try:
        flow = Flow(tenant, priority or "normal", float(weight or 1), float(share or 1))
    except ValueError:
        flow = None
    is_sound = flow is not None and tenant and priority in ("", *PRIORITY_WEIGHTS) and text.count(":") <= 3
    if flow is None or not is_sound or not (0 < flow.share < math.inf and 0 < flow.tenant_weight < math.inf):
        raise ValueError(
            f"--tenant {text!r}: takes NAME[:PRIORITY[:SHARE[:WEIGHT]]], with priority high, normal or low, and share "
            f"and weight above 0, such as acme:high:0.2"
        )
    return flow


def read_failures(texts: list[str] | None) -> tuple[Failure, ...]:
    """``--fail AT:DEVICE:DOWN`` options, such as ``10s:0:5s``."""
    return tuple(_failure(text) for text in texts or ())


def _failure(text: str) -> Failure:
    from windrow.lab.simulate.simulation import Failure

    parts = text.split(":")
    if len(parts) != 3 or not parts[1].isdecimal():
        raise ValueError(f"--fail {text!r}: takes WHEN:DEVICE:HOW_LONG with devices from 0, such as 10s:0:5s")
    return Failure(seconds(parts[0], "--fail"), int(parts[1]), seconds(parts[2], "--fail"))


def policy_of(
    strategy: str, max_batch_size: int, max_batch_tokens: int, max_wait_s: float | None, longest_tokens: int
) -> Policy:
    """As the worker would make it of the same settings; ``static`` pads to the longest input."""
    from windrow.lab.simulate.device import Policy
    from windrow.scheduler.config.model_settings import ModelSettings

    buckets = ModelSettings.model_fields["buckets"].default
    limits = BatchLimits(max_batch_size, max_batch_tokens, buckets, static_length=longest_tokens)
    return Policy(strategy, limits, max_wait_s)


def strategies(names: list[str] | None, generates: bool = False) -> list[str]:
    """``--strategy`` options; the best one's name where there are none, and every name for ``all``."""
    from windrow.lab.simulate.generation import GENERATION

    known = GENERATION if generates else PLANNERS
    for name in names or ():
        if name not in (*known, "all"):
            raise ValueError(f"--strategy {name!r}: takes {', '.join(known)} or all")
    if "all" in (names or ()):
        return list(known)
    return list(dict.fromkeys(names)) if names else ["continuous" if generates else "packed"]


def refuse(context: typer.Context, names: Collection[str], why: str) -> None:
    """Raise `ValueError` for the first of the parameters ``names`` that was given, since it would do nothing."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name != "DEFAULT":
            raise ValueError(f"{parameter.opts[0]} does nothing {why}")


def require_writable(path: Path, name: str) -> None:
    """Raise `ValueError` where the file of option ``name`` cannot be written: before all the work, not after."""
    is_new = not path.exists()
    try:
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ValueError(f"{name} {path}: cannot be written: {error.strerror}") from None


@contextmanager
def many_objects(report: Path | None) -> Iterator[None]:
    """Let nobody look for cycles in millions of small objects that have none; first look whether ``report`` can be."""
    from windrow.lab.report.page import check_report

    if report is not None:
        check_report(report)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
