"""The tables of the demonstration on a terminal, with fewer columns on a narrow one."""

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

from windrow.demo.report import MIN_COSINE, BatchSeen, Summary
from windrow.demo.scenes import Answer
from windrow.demo.streams import StreamedAnswer

#: Width in characters from which all columns are shown.
WIDE = 78
TEXT_WIDTH = 18

#: Columns of scene 2: heading, heading on a narrow terminal (empty if left out there), and the text of a summary.
SUMMARY_COLUMNS: tuple[tuple[str, str, Callable[[Summary], str]], ...] = (
    ("strategy", "plan", lambda summary: summary.strategy),
    ("batches", "", lambda summary: str(summary.batches)),
    ("mean size", "size", lambda summary: f"{summary.mean_batch_size:.1f}"),
    ("padding", "pad", lambda summary: f"{summary.padding_ratio:.0%}"),
    ("median ms", "", lambda summary: f"{summary.median_ms:.0f}"),
    ("req/s", "req/s", lambda summary: f"{summary.requests_per_s:.1f}"),
    ("speed-up", "up", lambda summary: "-" if summary.speedup is None else f"{summary.speedup:.2f}x"),
    ("cosine", "", lambda summary: "-" if summary.least_cosine is None else f"{summary.least_cosine:.5f}"),
)

#: ``start(strategy, total)`` returns the function to call for each answer.
Start = Callable[[str, int], Callable[[], None]]


def show_arrivals(console: Console, answers: Sequence[Answer], batches: Sequence[BatchSeen]) -> None:
    """Print scene 1: a row per client, then a line per batch. ``total`` is the latency that the client measured."""
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
            f"  batch {number}: clients {clients} in one batch of {batch.tokens} tokens, "
            f"{batch.padding_ratio:.0%} padding, {batch.compute_ms:.1f} ms",
            highlight=False,
        )


def show_summary(console: Console, summaries: Sequence[Summary]) -> None:
    """Print scene 2: a row per strategy."""
    is_wide = console.width >= WIDE
    columns = [(wide if is_wide else narrow, text) for wide, narrow, text in SUMMARY_COLUMNS if is_wide or narrow]
    table = _table(*(heading for heading, _ in columns))
    best = max((summary.requests_per_s for summary in summaries), default=0.0)
    for summary in summaries:
        style = "bold green" if summary.requests_per_s == best else ""
        table.add_row(*(text(summary) for _, text in columns), style=style)
    console.print(table)
    console.print(
        f"  {'Speed-up' if is_wide else 'Up'} is relative to the strategy none, one request per batch."
        + (
            " Cosine is the minimum between an embedding and that of the same text without batching; "
            f"{MIN_COSINE} or more counts as equal."
            if is_wide
            else ""
        ),
        highlight=False,
    )


@contextmanager
def shown_progress(console: Console) -> Iterator[Start]:
    """Show the progress of scene 2: bars on a terminal, otherwise one line per strategy.

    Yields ``start(strategy, total)``, which returns the function to call for each answer.
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
def shown_answers(console: Console, answers: Sequence[StreamedAnswer]) -> Iterator[Callable[[], None]]:
    """Show the answers of scene 3, on a terminal while they are generated; yield the function that updates them."""
    if not console.is_terminal:
        yield lambda: None
        console.print(_answers(console, answers))
        return
    with Live(_answers(console, answers), console=console, auto_refresh=False) as live:
        yield lambda: live.update(_answers(console, answers), refresh=True)


def _answers(console: Console, answers: Sequence[StreamedAnswer]) -> Table:
    is_wide = console.width >= WIDE
    table = _table("question", "answer", *(("tokens", "first ms", "total ms") if is_wide else ()))
    for answer in answers:
        figures = [str(answer.tokens or "-"), _ms(answer.first_ms), _ms(answer.total_ms)]
        table.add_row(answer.question, Text(answer.text), *(figures if is_wide else []))
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
        elif column in ("question", "answer"):
            table.add_column(column)
        else:
            table.add_column(column, justify="left" if column in ("strategy", "plan") else "right", no_wrap=True)
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
