"""Arguments and replies of the scripts that run for every request."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from sys import byteorder
from typing import Any

from windrow.scheduler.queue.records import is_ours, parse_record
from windrow.scheduler.queue.request import Claim, Request, Submission
from windrow.scheduler.queue.results import encode_document


def encode_submissions(submissions: Sequence[Submission]) -> list[Any]:
    """Return the last arguments of submit.lua."""
    arguments: list[Any] = [len(submissions)]
    options: list[Any] = []
    for item in submissions:
        arguments += (item.id, max(1, item.cost_tokens), len(item.payload))
        if item.deadline_s is not None or item.webhook or item.is_followed:
            left_us = 0 if item.deadline_s is None else max(1, round(item.deadline_s * 1e6))
            options += (item.id, left_us, item.webhook or "", int(item.is_followed))
    return arguments + options


def encode_finished(requests: Sequence[Request], now_us: int) -> tuple[list[Any], list[bytes]]:
    """Return the arguments of finish.lua and the result documents; ``now_us`` is the Redis time."""
    seconds, micros = divmod(now_us, 1_000_000)
    done = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=micros)
    date_done = done.isoformat(timespec="microseconds").encode()
    runs: list[Any] = []
    documents = []
    places = array("H")
    previous: tuple[str, str, str] | None = None
    for request in requests:
        status, document = encode_document(request, now_us, date_done)
        documents.append(document)
        if (run := (request.token, status, request.flow)) != previous:
            previous = run
            places = array("H")
            runs += (*run, 0, 0, 0, places)
        runs[-4] += 1
        runs[-3] += request.cost_tokens
        runs[-2] += request.size_bytes
        places.append(request.place)
    for at in range(6, len(runs), 7):
        runs[at] = _big_endian(runs[at])
    ids = " ".join([request.id for request in requests])
    return [ids, len(runs) // 7, *runs], documents


def _big_endian(numbers: array[int]) -> bytes:
    if byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


class ClaimReply:
    """The reply of claim.lua."""

    def __init__(self, reply: Sequence[Any]) -> None:
        self.now_s = int(reply[0]) / 1e6
        self._suspects_wait = bool(reply[1])
        self.ids: Sequence[bytes] = reply[2].split()
        self._attempts: Sequence[bytes | None] = reply[3] or [None] * len(self.ids)
        #: Records and payloads of a few requests; empty if they have to be read with another command.
        self.records_and_payloads: Sequence[Sequence[bytes | None]] = reply[4:]

    def claim(self, token: str, records: Sequence[bytes | None], payloads: Sequence[bytes | None]) -> Claim:
        """Return the claim that ``token`` holds.

        Left out are requests that were canceled since, whose record or payload is gone, and requests with a record of
        another version, whose lease expires.
        """
        requests = []
        claimed = zip(self.ids, self._attempts, records, payloads, strict=True)
        for place, (id, attempts, record, payload) in enumerate(claimed, 1):
            if record is not None and payload is not None and is_ours(record):
                created_s, deadline_s, cost, flow, size = parse_record(record)
                attempt = int(attempts or 0) + 1
                requests.append(
                    Request(id.decode(), token, attempt, created_s, deadline_s, flow, payload, cost, size, place)
                )
        return Claim(self.now_s, requests, self._suspects_wait)
