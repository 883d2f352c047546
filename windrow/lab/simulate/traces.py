"""Read traces of real traffic, in published formats and in our own, as workloads.

| format | file | arrivals |
|---|---|---|
| ``azure`` | CSV ``TIMESTAMP, ContextTokens, GeneratedTokens`` (Azure LLM inference 2023 and 2024) | dates |
| ``burstgpt`` | CSV ``Timestamp, Model, Request tokens, Response tokens, Total tokens, Log Type`` | seconds |
| ``mooncake`` | JSON lines ``timestamp, input_length, output_length, hash_ids`` | milliseconds |
| ``vidur`` | CSV ``arrived_at, num_prefill_tokens, num_decode_tokens`` | seconds |
| ``windrow`` | JSON lines of ``windrow bench record``; see `windrow.lab.measure.recording` | seconds |

Other columns are ignored. The first arrival becomes 0.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from windrow.lab.json_values import read_object
from windrow.lab.simulate.workload import MAX_TOKENS, Workload

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """The columns of a trace format."""

    arrival: str
    tokens: str
    #: None for a format without generation.
    output_tokens: str | None
    #: Converts a value of ``arrival`` to seconds.
    seconds: Callable[[Any], float]
    #: Leave out rows without output tokens, which are requests that failed.
    drops_failures: bool = False
    #: Whether arrivals are dates instead of numbers.
    dates: bool = False


def _date_s(text: str) -> float:
    date = datetime.fromisoformat(text)
    # A date without a time zone counts as UTC, because local time repeats an hour once a year.
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


FORMATS: dict[str, Format] = {
    "azure": Format("TIMESTAMP", "ContextTokens", "GeneratedTokens", _date_s, dates=True),
    "burstgpt": Format("Timestamp", "Request tokens", "Response tokens", float, drops_failures=True),
    "mooncake": Format("timestamp", "input_length", "output_length", lambda value: float(value) / 1e3),
    "vidur": Format("arrived_at", "num_prefill_tokens", "num_decode_tokens", float),
    "windrow": Format("arrival_s", "tokens", None, float),
}


def read_trace(path: Path, limit: int | None = None) -> Workload:
    """Read the first ``limit`` requests of a trace, or all for None. The first line determines the format.

    Raises `ValueError` with the file and the line for an unknown format, a row that is malformed, a value that is not a
    number, and an arrival that is negative or before the previous one.
    """
    arrival_s: list[float] = []
    tokens: list[int] = []
    output_tokens: list[int] = []
    with path.open(encoding="utf-8-sig", newline="") as file, _readable(path):
        form, rows = _open(file, path)
        first_s: float | None = None
        for line, row in rows:
            try:
                at_s, length, output = _read_row(form, row)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path}, line {line}: {_describe(error)}") from None
            if form.drops_failures and not output:
                continue
            first_s = at_s if first_s is None else first_s
            if arrival_s and at_s - first_s < arrival_s[-1]:
                raise ValueError(f"{path}, line {line}: it arrives before the previous line; arrivals must ascend")
            arrival_s.append(at_s - first_s)
            tokens.append(length)
            output_tokens.append(output)
            if len(arrival_s) == limit:
                break
    if not arrival_s:
        raise ValueError(f"{path}: the trace has no requests")
    return Workload(arrival_s, tokens, output_tokens if form.output_tokens else ())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Report a file that is not text or not a table, for which no line can be named."""
    formats = f"accepted formats are {', '.join(FORMATS)}"
    try:
        yield
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a trace, because it is not text in UTF-8; {formats}") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a trace: {error}; {formats}") from None


def _open(file: TextIO, path: Path) -> tuple[Format, Iterator[tuple[int, Row]]]:
    head = file.readline()
    if head.lstrip().startswith("{"):
        names = {str(name) for name in read_object(head, path, 1)}
        if "windrow_run" in names:
            return FORMATS["windrow"], _json_rows(enumerate(file, 2), path)
        rows: Iterator[tuple[int, Row]] = _json_rows(chain([(1, head)], enumerate(file, 2)), path)
    else:
        columns = [name.strip() for name in next(csv.reader([head]), [])]
        names = set(columns)
        rows = _csv_rows(file, columns)
    for form in FORMATS.values():
        if {form.arrival, form.tokens, form.output_tokens} <= names:
            return form, rows
    raise ValueError(f"{path}, line 1: unknown trace format; accepted formats are {', '.join(FORMATS)}")


def _csv_rows(file: TextIO, columns: list[str]) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(file)
    for values in reader:
        if values:
            yield reader.line_num + 1, dict(zip(columns, values, strict=False))


def _json_rows(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, Row]]:
    for line, text in lines:
        if text.strip():
            yield line, read_object(text, path, line)


def _read_row(form: Format, row: Row) -> tuple[float, int, int]:
    given = row[form.arrival]
    try:
        at_s = form.seconds(given)
    except (ValueError, TypeError):
        at_s = math.nan
    if not 0 <= at_s < math.inf:
        raise ValueError(f"{form.arrival} is {given!r}; it must be {'a date' if form.dates else 'a time of 0 or more'}")
    least = 0 if form.drops_failures else 1
    length = _count(row, form.tokens, least)
    return at_s, max(1, length), 1 if form.output_tokens is None else _count(row, form.output_tokens, least)


def _count(row: Row, name: str, least: int) -> int:
    given = row[name]
    try:
        value = float(given)
    except (ValueError, TypeError):
        value = math.nan
    if not (least <= value <= MAX_TOKENS and value.is_integer()):
        raise ValueError(f"{name} is {given!r}; it must be a whole number of tokens from {least} to {MAX_TOKENS:g}")
    return int(value)


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"column {error.args[0]} is missing"
    return str(error)
