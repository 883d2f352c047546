"""The demonstration on the terminal: tables for people, narrow ones on narrow terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from windrow.demo.report import LEAST_COSINE, BatchSeen, Summary
from windrow.demo.scenes import Answer
from windrow.demo.streams import Written

#: Terminals below this show fewer columns.
WIDE = 78
TEXT_WIDTH = 18

#: ``start(strategy, total)`` -> what to call at each answer.
Start = Callable[[str, int], Callable[[], None]]


def show_arrivals(console: Console, answers: Sequence[Answer], batches: Sequence[BatchSeen]) -> None:
    """Scene 1: a row a client, then a line a batch. ``total`` is what the client saw."""
    is_wide = console.width >= WIDE
    number_of = {place: number for number, batch in enumerate(batches, 1) for place in batch.places}
    if is_wide:
        table = _table("client", "text", "total ms", "queue", "batch wait", "compute", "batch", "size")
    else:
        table = _table("#", "total", "queue", "wait", "run", "batch")
    for place, answer in enumerate(answers):
        metrics = answer.prediction.metrics if answer.prediction else {}
        split = [_ms(metrics.get(name)) for name in ("queue_ms", "batch_wait_ms", "compute_ms")]
        row = [str(place + 1), answer.text, _ms(answer.latency_ms), *split, str(number_of.get(place, "-"))]
        table.add_row(*([*row, str(metrics.get("batch_size", "-"))] if is_wide else [row[0], *row[2:]]))
    console.print(table)
    for number, batch in enumerate(batches, 1):
        clients = ", ".join(str(place + 1) for place in batch.places)
        console.print(
            f"  batch {number}: clients {clients} in one pass of {batch.tokens} tokens, "
            f"{batch.padding_ratio:.0%} padding, {batch.compute_ms:.1f} ms",
            highlight=False,
        )


def show_summary(console: Console, summaries: Sequence[Summary]) -> None:
    """Scene 2: a row a strategy."""
    is_wide = console.width >= WIDE
    if is_wide:
        table = _table("strategy", "batches", "mean size", "padding", "median ms", "req/s", "speed-up", "cosine")
    else:
        table = _table("plan", "size", "pad", "req/s", "up")
    best = max((summary.requests_per_s for summary in summaries), default=0.0)
    for summary in summaries:
        cosine = "-" if summary.least_cosine is None else f"{summary.least_cosine:.5f}"
        row = [
            summary.strategy,
            *([str(summary.batches)] if is_wide else []),
            f"{summary.mean_batch_size:.1f}",
            f"{summary.padding_ratio:.0%}",
            *([f"{summary.median_ms:.0f}"] if is_wide else []),
            f"{summary.requests_per_s:.1f}",
            "-" if summary.speedup is None else f"{summary.speedup:.2f}x",
            *([cosine] if is_wide else []),
        ]
        table.add_row(*row, style="bold green" if summary.requests_per_s == best else "")
    console.print(table)
    console.print(
        f"  {'Speed-up' if is_wide else 'Up'} is against one by one (none)."
        + (
            " Cosine is the least between an answer and the one-by-one answer to the same text; "
            f"{LEAST_COSINE} or more counts as the same."
            if is_wide
            else ""
        ),
        highlight=False,
    )


@contextmanager
def shown_progress(console: Console) -> Iterator[Start]:
    """Progress of scene 2, bars on a terminal and one line a strategy elsewhere.

    Yields ``start(strategy, total)``, which returns what to call at each answer.
    """
    if not console.is_terminal:
        yield lambda strategy, total: _count_lines(console, strategy, total)
        return
    bar = BarColumn(bar_width=None if console.width >= WIDE else 12)
    columns = (TextColumn("  {task.description:<8}"), bar, MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:

        def start(strategy: str, total: int) -> Callable[[], None]:
            task = progress.add_task(strategy, total=total)
            return lambda: progress.advance(task)

        yield start


@contextmanager
def shown_answers(console: Console, answers: Sequence[Written]) -> Iterator[Callable[[], None]]:
    """Scene 3: answers as they grow on a terminal, once at their end elsewhere; yields what to call as they grow."""
    if not console.is_terminal:
        yield lambda: None
        console.print(_answers(console, answers))
        return
    with Live(_answers(console, answers), console=console, auto_refresh=False) as live:
        yield lambda: live.update(_answers(console, answers), refresh=True)


def _answers(console: Console, answers: Sequence[Written]) -> Table:
    is_wide = console.width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for column in ("question", "answer", *(("tokens", "first ms", "total ms") if is_wide else ())):
        is_text = column in ("question", "answer")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text)
    for one in answers:
        figures = [str(one.tokens or "-"), _ms(one.first_ms), _ms(one.total_ms)]
        table.add_row(one.question, Text(one.text), *(figures if is_wide else []))
    return table


def _count_lines(console: Console, strategy: str, total: int) -> Callable[[], None]:
    answered = count(1)

    def advance() -> None:
        if next(answered) == total:
            console.print(f"  {strategy}: {total} of {total} answered", highlight=False)

    return advance


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for column in columns:
        if column == "text":
            table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=TEXT_WIDTH)
        else:
            table.add_column(column, justify="left" if column in ("strategy", "plan") else "right", no_wrap=True)
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
