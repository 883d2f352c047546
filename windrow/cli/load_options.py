"""Options and reports that ``windrow bench compare``, ``serve`` and ``sweep`` share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.output import FAILED, errors_reported, fail, log

if TYPE_CHECKING:
    from windrow.lab.report.charts import Panel
    from windrow.lab.report.tables import TableRows

Dataset = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="One text per line, or .jsonl with input, text or prompt; default: generated texts of 3 to 400 words.",
    ),
]


def read_numbers(text: str, name: str, *, whole: bool = False, most: float = math.inf) -> list[float]:
    """Parse ``8,16`` into distinct numbers above 0 in rising order. Raises `ValueError` that names the option."""
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


def _check_json(file: Path | None) -> Path | None:
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{file}: takes a file in an existing folder")
    return file


JsonFile = Annotated[
    Path | None, typer.Option("--json", callback=_check_json, help="File to write the results to as JSON.")
]


def write_json(file: Path | None, report: Mapping[str, Any]) -> None:
    """Write ``report`` to ``file``, if there is one."""
    if file is not None:
        import orjson

        file.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))


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
    """Print the tables; write ``report`` to ``json_file``, and a page and a picture to ``folder``, if given."""
    from windrow.lab.report.tables import show_report

    write_json(json_file, report)
    show_report(about, [("" if number else title, rows) for number, rows in enumerate(tables)], notes)
    if folder is not None:
        from windrow.lab.report.page import write_report

        log(*write_report(folder, title, about, tables, panels()))


@contextmanager
def problems_reported() -> Iterator[None]:
    """Report every expected failure of a benchmark as one line on stderr, and exit with its code."""
    if sys.platform != "linux":
        fail("platform", "the benchmarks read /proc and run on Linux only", FAILED, as_json=False)
    with errors_reported(as_json=False, extra="server,worker"):
        from windrow.bench.programs import BenchFailed
        from windrow.stack.serve import NotReady
        from windrow.stack.supervisor import INTERRUPTED, Interrupted, ProgramEnded

        try:
            yield
        except (BenchFailed, NotReady, ProgramEnded) as error:
            fail("bench_failed", str(error), FAILED, as_json=False)
        except Interrupted:
            fail("interrupted", "stopped by a signal", INTERRUPTED, as_json=False)
