"""``windrow bench compare``: its options, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.lab_options import Report, refuse, strategies
from windrow.cli.load_options import Dataset, JsonFile, check_folder, problems_reported, publish, read_numbers, say

if TYPE_CHECKING:
    from windrow.bench.dataset import Item

FIXED, DEFAULT_SIZES = "fixed", "8,16"
#: Tokens of a pass that only sleeps.
FIXED_TOKENS = 16_384
#: Of each kind of engine that answers in one pass; ``none`` is what all are measured against.
DEFAULT_STRATEGIES = {"fixed": ["packed"], "rows": ["static", "dynamic", "bucket", "packed"]}
#: Rows of the largest size that the users keep coming, where their number is not given.
ROWS_OF_USERS = 4


def compare(
    context: typer.Context,
    engine: Annotated[
        str, typer.Option(help="A model of the settings, or `fixed`: passes that only sleep.")
    ] = "minilm",
    requests: Annotated[int, typer.Option(min=1, help="Requests of each contender in each round.")] = 200,
    batch_size: Annotated[str, typer.Option(help="Requests in a row, at most; several by commas.")] = DEFAULT_SIZES,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="Once for each, or all; else all that share passes, and for `fixed` packed alone."),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(
            min=1, help="Each sends its next request when its last is answered; else four of the largest rows."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times each contender is measured.")] = 3,
    max_wait_ms: Annotated[float, typer.Option(min=0, max=60_000, help="How long a row waits for company.")] = 5.0,
    max_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a pass, padding included; else as the model is set.")
    ] = None,
    pass_ms: Annotated[float, typer.Option(min=0, max=60_000, help="Of `fixed`: what any pass takes.")] = 20.0,
    token_us: Annotated[
        float, typer.Option(min=0, max=1e6, help="Of `fixed`: what a token takes more; a word is one.")
    ] = 0.0,
    output_tokens: Annotated[
        float, typer.Option(min=1, max=1e6, help="Where text is generated: median length.")
    ] = 32.0,
    dataset: Dataset = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the texts, where no file is given.")] = 20,
    report: Report = None,
    json_file: JsonFile = None,
) -> None:
    """Many users, one workload: one request a pass, then every strategy with every batch size, on the same device."""
    from windrow.bench.compare.report import notes, one_line, panels, summarise, tables
    from windrow.bench.compare.run import Plan, make_contenders, run_compare
    from windrow.bench.dataset import load_items, with_lengths

    with problems_reported():
        check_folder(report)
        sizes = [round(size) for size in read_numbers(batch_size, "--batch-size", whole=True, most=1000)]
        items = load_items(dataset, requests, seed)
        if engine == FIXED:
            device, items = _fixed(items, pass_ms, token_us, max_batch_tokens)
        else:
            device = _model(engine, max_batch_tokens)
        _refuse_idle(context, device["kind"])
        if device["kind"] == "steps":
            items = with_lengths(items, output_tokens, seed)
        people = users or ROWS_OF_USERS * max(sizes)
        plan = Plan(make_contenders(_strategies(strategy, device["kind"]), sizes), device, max_wait_ms, people, rounds)
        turns, engines = run_compare(plan, items, say)
        made = summarise(plan, turns, engines)
        about = {
            "engine": f"{device['about']}, {made['device']}",
            "workload": f"{requests} requests, {people} users, {rounds} rounds",
            "speedup": one_line(made),
        }
        publish("Strategies", about, tables(made), notes(made), made, json_file, report, lambda: panels(made, turns))


def _refuse_idle(context: typer.Context, kind: str) -> None:
    """Refuse the options that would do nothing beside the others."""
    if kind != "fixed":
        refuse(context, {"pass_ms", "token_us"}, f"without --engine {FIXED}")
    if kind == "steps":
        refuse(context, {"max_wait_ms"}, "where text is generated: there is no window between two steps")
    else:
        refuse(context, {"output_tokens"}, "where no text is generated")
        if context.params["dataset"] is not None:
            refuse(context, {"seed"}, "with --dataset, which has the texts")


def _strategies(names: list[str] | None, kind: str) -> list[str]:
    """Those of the contenders beside the serial one, which is ``none`` already where text is generated."""
    from windrow.scheduler.stepping.step_scheduler import STEP_STRATEGIES

    if kind != "steps":
        return strategies(names) if names else DEFAULT_STRATEGIES[kind]
    for name in names or ():
        if name not in (*STEP_STRATEGIES, "all"):
            raise ValueError(f"--strategy {name!r}: where text is generated, takes {', '.join(STEP_STRATEGIES)} or all")
    asked = STEP_STRATEGIES if not names or "all" in names else names
    return [name for name in STEP_STRATEGIES if name in asked and name != "none"]


def _fixed(
    items: list[Item], pass_ms: float, token_us: float, max_batch_tokens: int | None
) -> tuple[dict[str, Any], list[Item]]:
    """The engine that sleeps, and what it takes: lengths."""
    from windrow.bench.dataset import Item

    lengths = [item.words for item in items]
    about = f"{pass_ms:g} ms a pass and {token_us:g} us a token"
    device = {"kind": "fixed", "about": about, "pass_ms": pass_ms, "token_us": token_us, "longest_tokens": max(lengths)}
    return device | {"max_batch_tokens": max_batch_tokens or FIXED_TOKENS}, [Item(length) for length in lengths]


def _model(name: str, max_batch_tokens: int | None) -> dict[str, Any]:
    from windrow.errors import UnknownModel
    from windrow.scheduler.config.settings import load_settings

    models = load_settings().models
    if name not in models:
        raise UnknownModel(f"--engine {name!r}: takes {FIXED} or a model of the settings: {', '.join(models)}")
    settings = models[name]
    if settings.task == "upstream":
        raise ValueError(f"--engine {name!r}: takes a model that runs here; this one is a server's, see `bench serve`")
    if max_batch_tokens is not None:
        settings = settings.model_copy(update={"max_batch_tokens": max_batch_tokens})
    kind = "steps" if settings.task == "generate" else "rows"
    return {"kind": kind, "about": name, "name": name, "settings": settings.model_dump(mode="json", exclude_unset=True)}
