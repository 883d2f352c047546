"""What the scripts that run for every request are given, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from scheduler.queue.records import FOLLOWED, Claim, Claimed, Ending, Submission, encode_document, parse_record


def encode_submissions(submissions: Sequence[Submission]) -> list[Any]:
    """The last arguments of submit.lua."""
    arguments: list[Any] = [len(submissions)]
    some: list[Any] = []
    for item in submissions:
        is_followed = item.payload.endswith(FOLLOWED)
        arguments += (item.id, max(1, item.cost_tokens), len(item.payload))
        if item.deadline_s is not None or item.webhook or is_followed:
            left_us = 0 if item.deadline_s is None else max(1, round(item.deadline_s * 1e6))
            some += (item.id, left_us, item.webhook or "", int(is_followed))
    return arguments + some


def encode_endings(endings: Sequence[Ending], now_us: int) -> tuple[list[Any], list[bytes]]:
    """Arguments of finish.lua, and the result documents; ``now_us`` is Redis' time."""
    seconds, micros = divmod(now_us, 1_000_000)
    done = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=micros)
    date_done = done.isoformat(timespec="microseconds").encode()
    runs: list[Any] = []
    documents = []
    last: tuple[str, str, str] | None = None
    for ending in endings:
        status, document = encode_document(ending, now_us, date_done)
        documents.append(document)
        request = ending.request
        if (alike := (request.token, status, request.flow)) != last:
            last = alike
            runs += (*alike, 0, 0, 0)
        runs[-3] += 1
        runs[-2] += request.cost_tokens
        runs[-1] += request.size_bytes
    ids = " ".join([ending.request.id for ending in endings])
    return [ids, len(runs) // 6, *runs], documents


class ClaimReply:
    """The reply of claim.lua."""

    def __init__(self, reply: Sequence[Any]) -> None:
        self.now_s = int(reply[0]) / 1e6
        self._suspects_wait = bool(reply[1])
        end = 3 + 3 * reply[2]
        self.ids: Sequence[bytes] = reply[3:end:3]
        self._attempts, self._records = reply[4:end:3], reply[5:end:3]
        #: Of a few requests; empty where they have yet to be read.
        self.payloads: Sequence[bytes | None] = reply[end:]

    def claim(self, token: str, payloads: Sequence[bytes | None]) -> Claim:
        """What ``token`` holds now; a request without a payload was ended by somebody else in between."""
        requests = []
        for id, attempts, record, payload in zip(self.ids, self._attempts, self._records, payloads, strict=True):
            if payload is not None:
                created_s, deadline_s, cost, flow, size, _ = parse_record(record)
                attempt = int(attempts) + 1
                requests.append(Claimed(id.decode(), token, attempt, created_s, deadline_s, flow, payload, cost, size))
        return Claim(self.now_s, requests, self._suspects_wait)
