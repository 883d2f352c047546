"""The engine: no device here, but requests that run on somebody else's, as many at a time as that bears."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import httpx

from windrow.errors import ModelFailed, ModelUnusable, UpstreamFailed, WindrowError
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.upstream_concurrency import ConcurrencyLimit
from windrow.scheduler.core.upstream_retry import TEMPORARY_STATUSES
from windrow.scheduler.tasks.generate import GenerateCall, read_prompt
from windrow.scheduler.tasks.upstream import UPSTREAM
from windrow.worker.engines.base import Delta, EngineInfo, Prepared
from windrow.worker.engines.upstream.calls import (
    OutputDelta,
    UpstreamAnswer,
    body_of,
    can_count_along,
    estimate_tokens,
    path_of,
)
from windrow.worker.engines.upstream.sending import CONNECT_S, SILENCE_S, read_json, stream_chunks

log = logging.getLogger(__name__)
#: How often the server is asked whether it is there: while it is, and while it is not. In seconds.
HEALTHY_LOOK_S, AWAY_LOOK_S = 10.0, 1.0


@dataclass(slots=True)
class _UpstreamRequest:
    """One request that the server has, or will have."""

    prompt_tokens: int
    task: asyncio.Task[None] | None = None
    sent_s: float = 0.0
    has_begun: bool = False


class UpstreamEngine:
    """A `StepEngine`; a step is whatever has come since the last one."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        """Raises `ModelUnusable` where the key is not in the environment. The server need not be there yet."""
        headers = {}
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env)
            if not key:
                raise ModelUnusable(f"model {name!r}: api_key_env: the variable {settings.api_key_env} is not set")
            headers["Authorization"] = f"Bearer {key}"
        self.info = EngineInfo(
            model=name, task="upstream", strategy="continuous", strategy_note=None, device="upstream", dtype="upstream",
            max_input_tokens=settings.max_input_tokens or 0, max_sequences=settings.max_concurrency,
        )  # fmt: skip
        self._model = settings.upstream_model or name
        self._concurrency = ConcurrencyLimit(settings.max_concurrency)
        self._client = httpx.AsyncClient(
            base_url=f"{settings.url}/", headers=headers, timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=settings.max_concurrency + 1),
        )  # fmt: skip
        self._running: dict[str, _UpstreamRequest] = {}
        self._deltas: deque[Delta] = deque()
        #: Guards the two above; told of what has come.
        self._news = threading.Condition()
        self._is_there = True
        self._counts_along = False
        #: Seconds in which the server had something of ours, up to this moment; None where it has nothing now.
        self.busy_s = 0.0
        self._busy_until_s: float | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, name=f"upstream-{name}", daemon=True).start()

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Check; same length and order as ``inputs``. `Prepared.data` is a `GenerateCall`, its tokens an estimate."""
        return [self._prepare(value, wishes) for value, wishes in zip(inputs, parameters, strict=True)]

    def room(self) -> int:
        """Requests that the server may be given now; none while it is away."""
        with self._news:
            return max(0, self._concurrency.allowed - len(self._running)) if self._is_there else 0

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Send a request; ``stream`` and ``priority`` change nothing, since every answer is streamed to here."""
        with self._news:
            if not self._running:
                self._busy_until_s = time.monotonic()
            self._running[id] = _UpstreamRequest(prepared.tokens)
        self._loop.call_soon_threadsafe(self._begin, id, prepared.data)

    def cancel(self, id: str) -> None:
        """Hang up on the server; nothing more comes of the request."""
        with self._news:
            running = self._leave(id)
            self._deltas = deque(delta for delta in self._deltas if delta.id != id)
        if running is not None and running.task is not None:
            self._loop.call_soon_threadsafe(running.task.cancel)

    def step(self) -> list[Delta] | None:
        """Everything that has come; None where nothing has."""
        with self._news:
            self._count_busy()
            deltas, self._deltas = list(self._deltas), deque()
        return deltas or None

    def collect(self, handle: list[Delta]) -> list[Delta]:
        """The same."""
        return handle

    def wait(self, timeout_s: float) -> None:
        """Until something has come."""
        with self._news:
            self._news.wait_for(lambda: self._deltas, timeout_s)

    def _prepare(self, value: Any, wishes: Mapping[str, Any]) -> Prepared | Failed:
        try:
            parameters = UPSTREAM.read_parameters(wishes)
            UPSTREAM.texts(value, parameters, "input")
            call = GenerateCall(read_prompt(value), parameters)
        except WindrowError as error:
            return Failed(error)
        return Prepared(max(1, estimate_tokens(call.prompt)), call)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._watching = self._loop.create_task(self._watch())
        self._loop.run_forever()

    def _begin(self, id: str, call: GenerateCall) -> None:
        with self._news:
            running = self._running.get(id)
            if running is not None:  # else canceled before it began
                running.task = self._loop.create_task(self._answer(id, running, call))

    async def _answer(self, id: str, running: _UpstreamRequest, call: GenerateCall) -> None:
        answer = UpstreamAnswer(call)
        outcome: Outcome
        untold = [0]
        try:
            chunks = stream_chunks(
                self._client, path_of(call), body_of(call, self._model, counts_along=self._counts_along),
                lambda: self._sent(running), lambda: self._refused(running),
            )  # fmt: skip
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._take(id, running, answer.take(chunk))
            if not answer.is_whole:
                raise UpstreamFailed("the server behind this model broke off its answer")
            outcome, untold = Done(answer.output()), answer.untold_tokens()
        except WindrowError as error:
            outcome = Failed(error)
        except ValueError as error:
            outcome = Failed(UpstreamFailed(f"the server behind this model sent {error}"))
        except Exception as error:
            log.warning("model %s: an answer raised %s", self.info.model, describe_exception(error))
            outcome = Failed(ModelFailed(f"reading the answer raised {type(error).__name__}"))
        with self._news:
            if self._leave(id) is not None:
                for index, tokens in enumerate(untold[1:], 1):
                    self._tell(Delta(id, index, "", tokens, None, None, False))
                # An answer may have tokens and no text: its end is the first that is seen of it.
                is_first = not running.has_begun and untold[0] > 0
                self._tell(Delta(id, 0, "", untold[0], None, outcome, is_first))

    def _sent(self, running: _UpstreamRequest) -> None:
        running.sent_s = time.monotonic()

    def _refused(self, running: _UpstreamRequest) -> None:
        with self._news:
            self._concurrency = self._concurrency.refused(running.sent_s, time.monotonic())

    def _take(self, id: str, running: _UpstreamRequest, pieces: Sequence[OutputDelta]) -> None:
        with self._news:
            if id not in self._running:
                return
            for piece in pieces:
                is_first, running.has_begun = not running.has_begun, True
                if is_first:
                    now_s = time.monotonic()
                    self._concurrency = self._concurrency.answered(
                        now_s - running.sent_s, running.prompt_tokens, len(self._running), now_s
                    )
                self._tell(Delta(id, piece.index, piece.text, piece.tokens, piece.logprobs or None, None, is_first))

    def _tell(self, delta: Delta) -> None:
        self._deltas.append(delta)
        self._news.notify_all()

    def _leave(self, id: str) -> _UpstreamRequest | None:
        running = self._running.pop(id, None)
        if not self._running:
            self._count_busy()
            self._busy_until_s = None
        return running

    def _count_busy(self) -> None:
        if self._busy_until_s is not None:
            now_s = time.monotonic()
            self.busy_s += now_s - self._busy_until_s
            self._busy_until_s = now_s

    async def _watch(self) -> None:
        """Claim nothing while the server is away: what waits in the queue loses nothing, what is sent would fail."""
        while True:
            note = await self._trouble()
            is_there = note is None
            if is_there != self._is_there:
                log.warning("model %s: %s", self.info.model, note or "the server is there again")
            with self._news:
                self._is_there = is_there
                self.info = replace(self.info, strategy_note=note)
            await asyncio.sleep(HEALTHY_LOOK_S if is_there else AWAY_LOOK_S)

    async def _trouble(self) -> str | None:
        """Why the server can take nothing now; None where it can: any answer of its own says that it is there."""
        try:
            response = await self._client.get("models", timeout=CONNECT_S)
        except httpx.HTTPError as error:
            return f"the server is away: {type(error).__name__}"
        self._counts_along = can_count_along(read_json(response.content))
        # A 500 comes from the server itself, which may have no list of models and answer all the same.
        return (
            f"the server is away: status {response.status_code}" if response.status_code in TEMPORARY_STATUSES else None
        )
