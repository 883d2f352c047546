"""The file format of recorded runs: JSON lines, first a description of the run, then one line per request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from windrow.lab.json_values import Seconds, read_as, read_object

VERSION = 1
#: ``task`` in the first line of a run of a model that generates text.
GENERATE = "generate"


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """What the requests of every kind of run have in common."""

    #: Seconds from the first arrival of the run.
    arrival_s: Seconds


AnyRequest = TypeVar("AnyRequest", bound=TimedRequest)


def rebased(requests: Sequence[AnyRequest]) -> list[AnyRequest]:
    """Sort by arrival and shift the times so that the first request arrives at 0."""
    ordered = sorted(requests, key=lambda request: request.arrival_s)
    start_s = ordered[0].arrival_s
    return [replace(request, arrival_s=round(request.arrival_s - start_s, 6)) for request in ordered]


def write_lines(path: Path, head: Mapping[str, Any], requests: Sequence[TimedRequest]) -> None:
    """Write a run; raises `OSError`."""
    lines = [head, *(asdict(request) for request in requests)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def generates(path: Path) -> bool:
    """Whether the file is the run of a model that generates text; raises `ValueError` if it is not a run."""
    try:
        return bool(read_head(read_lines(path)).get("task") == GENERATE)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}, line 1: {error}") from None


def read_head(lines: Iterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the first line; raises `ValueError` if it does not describe a run."""
    head = next(lines, {})
    if head.get("windrow_run") != VERSION:
        raise ValueError("not a run that `windrow bench record` wrote")
    return head


def read_requests(path: Path, lines: Iterator[Mapping[str, Any]], kind: type[AnyRequest]) -> list[AnyRequest]:
    """Convert all lines after the first to ``kind``; raises `ValueError` with the number of the first bad line."""
    requests: list[AnyRequest] = []
    for line, values in enumerate(lines, 2):
        try:
            requests.append(read_as(kind, values))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        if len(requests) > 1 and requests[-1].arrival_s < requests[-2].arrival_s:
            raise ValueError(f"{path}, line {line}: arrives before the request of the line above")
    if not requests:
        raise ValueError(f"{path}: the run has no requests")
    return requests


def read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the object of each line; raises `ValueError` with the number of the first line that is not an object."""
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        yield read_object(text, path, line)
