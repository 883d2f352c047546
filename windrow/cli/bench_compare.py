"""``windrow bench compare``: turns its options into a comparison."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.lab_options import Report, local_model, refuse, strategies
from windrow.cli.load_options import Dataset, JsonFile, problems_reported, publish, read_numbers
from windrow.cli.output import log

if TYPE_CHECKING:
    from windrow.bench.dataset import Item

FIXED, DEFAULT_SIZES = "fixed", "8,16"
#: Default `max_batch_tokens` of the engine ``fixed``.
FIXED_TOKENS = 16_384
#: Default strategies for each kind of engine without generation; all are compared with ``none``.
DEFAULT_STRATEGIES = {"fixed": ["packed"], "rows": ["static", "dynamic", "bucket", "packed"]}
#: Default number of users, in batches of the largest size.
BATCHES_OF_USERS = 4


def compare(
    context: typer.Context,
    engine: Annotated[
        str, typer.Option(help="Model of the settings, or `fixed`: an engine whose batches only sleep.")
    ] = "minilm",
    requests: Annotated[int, typer.Option(min=1, help="Requests of each configuration in each round.")] = 200,
    batch_size: Annotated[str, typer.Option(help="Maximum batch size; separate several by commas.")] = DEFAULT_SIZES,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="Strategy, repeatable, or all; default: all that batch, and packed for `fixed`."),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(
            min=1, help="Concurrent users, each with one request at a time; default: four of the largest batches."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of times that each configuration is measured.")] = 3,
    max_wait_ms: Annotated[float, typer.Option(min=0, max=60_000, help="Batching window, in milliseconds.")] = 5.0,
    max_batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum tokens per batch, padding included; default: the setting of the model."),
    ] = None,
    pass_ms: Annotated[
        float, typer.Option(min=0, max=60_000, help="Only for `fixed`: time of a batch, in milliseconds.")
    ] = 20.0,
    token_us: Annotated[
        float, typer.Option(min=0, max=1e6, help="Only for `fixed`: additional time per token (word), in microseconds.")
    ] = 0.0,
    output_tokens: Annotated[
        float, typer.Option(min=1, max=1e6, help="Text generation only: median completion length, in tokens.")
    ] = 32.0,
    dataset: Dataset = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the generated texts.")] = 20,
    report: Report = None,
    json_file: JsonFile = None,
) -> None:
    """Compare every strategy and batch size with one request per batch, for the same users on the same device."""
    with problems_reported():
        from windrow.bench.compare.report import notes, one_line, panels, summarise, tables
        from windrow.bench.compare.run import Plan, make_contenders, run_compare
        from windrow.bench.dataset import load_items, with_lengths
        from windrow.lab.report.page import check_report

        check_report(report)
        sizes = [round(size) for size in read_numbers(batch_size, "--batch-size", whole=True, most=1000)]
        items = load_items(dataset, requests, seed)
        if engine == FIXED:
            device, items = _fixed(items, pass_ms, token_us, max_batch_tokens)
        else:
            device = _model(engine, max_batch_tokens)
        _refuse_idle(context, device["kind"])
        if device["kind"] == "steps":
            items = with_lengths(items, output_tokens, seed)
        user_count = users or BATCHES_OF_USERS * max(sizes)
        plan = Plan(
            make_contenders(_strategies(strategy, device["kind"]), sizes), device, max_wait_ms, user_count, rounds
        )
        turns, engines = run_compare(plan, items, log)
        result = summarise(plan, turns, engines)
        about = {
            "engine": f"{device['about']}, {result['device']}",
            "workload": f"{requests} requests, {user_count} users, {rounds} rounds",
            "speedup": one_line(result),
        }
        charts = partial(panels, result, turns)
        publish("Strategies", about, tables(result), notes(result), result, json_file, report, charts)


def _refuse_idle(context: typer.Context, kind: str) -> None:
    """Refuse options that have no effect together with the others."""
    if kind != "fixed":
        refuse(context, {"pass_ms", "token_us"}, f"without --engine {FIXED}")
    if kind == "steps":
        refuse(context, {"max_wait_ms"}, "for text generation, which has no window")
    else:
        refuse(context, {"output_tokens"}, "without text generation")
        if context.params["dataset"] is not None:
            refuse(context, {"seed"}, "with --dataset, which contains the texts")


def _strategies(names: list[str] | None, kind: str) -> list[str]:
    """Return the strategies to compare with ``none``."""
    from windrow.scheduler.stepping.step_scheduler import STEP_STRATEGIES

    if kind != "steps":
        return strategies(names) if names else DEFAULT_STRATEGIES[kind]
    for name in names or ():
        if name not in (*STEP_STRATEGIES, "all"):
            raise ValueError(f"--strategy {name!r}: for text generation, takes {', '.join(STEP_STRATEGIES)} or all")
    chosen = STEP_STRATEGIES if not names or "all" in names else names
    return [name for name in STEP_STRATEGIES if name in chosen and name != "none"]


def _fixed(
    items: list[Item], pass_ms: float, token_us: float, max_batch_tokens: int | None
) -> tuple[dict[str, Any], list[Item]]:
    """Return the engine ``fixed`` and its inputs, which are lengths."""
    from windrow.bench.dataset import Item

    lengths = [item.words for item in items]
    about = f"{pass_ms:g} ms per batch and {token_us:g} us per token"
    device = {"kind": "fixed", "about": about, "pass_ms": pass_ms, "token_us": token_us, "longest_tokens": max(lengths)}
    return device | {"max_batch_tokens": max_batch_tokens or FIXED_TOKENS}, [Item(length) for length in lengths]


def _model(name: str, max_batch_tokens: int | None) -> dict[str, Any]:
    settings = local_model("--engine", name, FIXED)
    if max_batch_tokens is not None:
        settings = settings.model_copy(update={"max_batch_tokens": max_batch_tokens})
    kind = "steps" if settings.task == "generate" else "rows"
    return {"kind": kind, "about": name, "name": name, "settings": settings.model_dump(mode="json", exclude_unset=True)}
