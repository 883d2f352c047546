"""What ``windrow bench compare``, ``serve`` and ``sweep`` share: options, and how a report is given out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.output import FAILED, errors_reported, fail

if TYPE_CHECKING:
    from windrow.lab.report.charts import Panel
    from windrow.lab.report.tables import TableRows

#: A shell's number for a program that INT ended.
INTERRUPTED = 130
Dataset = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="One text a line, or .jsonl with input, text or prompt; else seeded texts of 3 to 400 words.",
    ),
]


def read_numbers(text: str, name: str, *, whole: bool = False, most: float = math.inf) -> list[float]:
    """``8,16`` -> numbers above 0 in rising order, each once. Raises `ValueError` naming the option."""
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError:
        values = []
    if not values or not all(0 < value <= most and value < math.inf for value in values):
        values = []
    if whole and not all(value.is_integer() for value in values):
        values = []
    if not values:
        kind = "whole numbers" if whole else "numbers"
        upto = "" if math.isinf(most) else f" and at most {most:g}"
        raise ValueError(f"{name} {text!r}: takes {kind} above 0{upto}, separated by commas, such as 8,16")
    return values


def check_folder(folder: Path | None) -> None:
    """Raise `ValueError` where a page is asked for and cannot be written: before anything is measured, not after."""
    from windrow.lab.report.page import check_report

    if folder is not None:
        check_report(folder)


def _check_json(file: Path | None) -> Path | None:
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{file}: takes a file in a folder that is there")
    return file


JsonFile = Annotated[
    Path | None, typer.Option("--json", callback=_check_json, help="Write the report to this file too.")
]


def write_json(file: Path | None, report: Mapping[str, Any]) -> None:
    """Write ``report`` where a file was asked for."""
    if file is not None:
        import orjson

        file.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))


def say(*parts: object) -> None:
    """A line on stderr."""
    print(*parts, file=sys.stderr, flush=True)


def publish(
    title: str,
    about: Mapping[str, str],
    tables: Sequence[TableRows],
    notes: Sequence[str],
    report: Mapping[str, Any],
    json_file: Path | None,
    folder: Path | None,
    panels: Callable[[], Sequence[Panel]],
) -> None:
    """Print the tables; where asked, write ``report`` as JSON, and a page and a picture into ``folder``."""
    from rich.console import Console

    from windrow.lab.report.tables import show

    write_json(json_file, report)
    console = Console()
    for name, value in about.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    for number, rows in enumerate(tables):
        show(console, "" if number else title, rows)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    if folder is not None:
        from windrow.lab.report.page import write_report

        say(*write_report(folder, title, about, tables, panels()))


@contextmanager
def problems_reported() -> Iterator[None]:
    """Turn what can go wrong into one line on stderr and an exit code."""
    from windrow.bench.programs import BenchFailed
    from windrow.stack.serve import NotReady
    from windrow.stack.supervisor import Interrupted, ProgramEnded

    if sys.platform != "linux":
        fail("platform", "the benchmarks read /proc; they run on Linux", FAILED, as_json=False)
    with errors_reported(as_json=False):
        try:
            yield
        except (BenchFailed, NotReady, ProgramEnded) as error:
            fail("bench_failed", str(error), FAILED, as_json=False)
        except Interrupted:
            fail("interrupted", "stopped by a signal before the end", INTERRUPTED, as_json=False)
