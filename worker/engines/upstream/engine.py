"""The upstream engine: forwards requests to an OpenAI-compatible server, within its concurrency limit."""

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
from windrow.worker.engines.upstream import calls
from windrow.worker.engines.upstream.sending import CONNECT_S, SILENCE_S, read_json, stream_chunks

log = logging.getLogger(__name__)
#: Seconds between two health checks of the server, while it is reachable and while it is not.
HEALTHY_CHECK_S, UNREACHABLE_CHECK_S = 10.0, 1.0


@dataclass(slots=True)
class _UpstreamRequest:
    """A request that was sent to the server, or will be."""

    prompt_tokens: int
    task: asyncio.Task[None] | None = None
    sent_s: float = 0.0
    has_begun: bool = False


class UpstreamEngine:
    """A `StepEngine` whose steps are the output that arrived since the last one."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        """Start the event loop. Raises `ModelUnusable` without the API key; the server need not be reachable yet."""
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
        #: Guards the two above, and is notified of new deltas.
        self._arrived = threading.Condition()
        self._is_reachable = True
        self._reports_usage = False
        #: Seconds with at least one request at the server, counted up to ``_busy_until_s``; that is None if idle.
        self.busy_s = 0.0
        self._busy_until_s: float | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, name=f"upstream-{name}", daemon=True).start()

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Validate; see `EngineBase.prepare`. `Prepared.data` is a `GenerateCall`, and its tokens are an estimate."""
        return [self._prepare(*request) for request in zip(inputs, parameters, strict=True)]

    def room(self) -> int:
        """Return how many more requests the server may get now; 0 while it is unreachable."""
        with self._arrived:
            return max(0, self._concurrency.allowed - len(self._running)) if self._is_reachable else 0

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Send a request. ``stream`` and ``priority`` have no effect, because the server streams every answer."""
        with self._arrived:
            if not self._running:
                self._busy_until_s = time.monotonic()
            self._running[id] = _UpstreamRequest(prepared.tokens)
        self._loop.call_soon_threadsafe(self._begin, id, prepared.data)

    def cancel(self, id: str) -> None:
        """Close the connection of a request and drop its output."""
        with self._arrived:
            running = self._leave(id)
            self._deltas = deque(delta for delta in self._deltas if delta.id != id)
        if running is not None and running.task is not None:
            self._loop.call_soon_threadsafe(running.task.cancel)

    def step(self) -> list[Delta] | None:
        """Return the output that arrived since the last step, or None."""
        with self._arrived:
            self._count_busy()
            deltas, self._deltas = list(self._deltas), deque()
        return deltas or None

    def collect(self, handle: list[Delta]) -> list[Delta]:
        """Return ``handle``, which is the output itself."""
        return handle

    def wait(self, timeout_s: float) -> None:
        """Return when there is new output, or after ``timeout_s`` seconds."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._deltas, timeout_s)

    def _prepare(self, value: Any, sent: Mapping[str, Any]) -> Prepared | Failed:
        try:
            parameters = UPSTREAM.read_parameters(sent)
            UPSTREAM.texts(value, parameters, "input")
            call = GenerateCall(read_prompt(value), parameters)
        except WindrowError as error:
            return Failed(error)
        return Prepared(max(1, calls.estimate_tokens(call.prompt)), call)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._watching = self._loop.create_task(self._watch())
        self._loop.run_forever()

    def _begin(self, id: str, call: GenerateCall) -> None:
        with self._arrived:
            running = self._running.get(id)
            if running is not None:  # otherwise it was canceled before it began
                running.task = self._loop.create_task(self._answer(id, running, call))

    async def _answer(self, id: str, running: _UpstreamRequest, call: GenerateCall) -> None:
        answer = calls.UpstreamAnswer(call)
        outcome: Outcome
        unreported = [0]
        try:
            chunks = stream_chunks(
                self._client, calls.path_of(call), calls.body_of(call, self._model, reports_usage=self._reports_usage),
                lambda: self._sent(running), lambda: self._refused(running),
            )  # fmt: skip
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._take(id, running, answer.take(chunk))
            if not answer.is_whole:
                raise UpstreamFailed("the upstream server broke off its answer")
            outcome, unreported = Done(answer.output()), answer.unreported_tokens()
        except WindrowError as error:
            outcome = Failed(error)
        except ValueError as error:
            outcome = Failed(UpstreamFailed(f"the upstream server sent {error}"))
        except Exception as error:
            log.warning("model %s: reading an answer raised %s", self.info.model, describe_exception(error))
            outcome = Failed(ModelFailed(f"reading the answer raised {type(error).__name__}"))
        with self._arrived:
            if self._leave(id) is not None:
                for index, tokens in enumerate(unreported[1:], 1):
                    self._publish(Delta(id, index, "", tokens, None, None, False))
                # An answer may have tokens and no text; then its end is its first output.
                is_first = not running.has_begun and unreported[0] > 0
                self._publish(Delta(id, 0, "", unreported[0], None, outcome, is_first))

    def _sent(self, running: _UpstreamRequest) -> None:
        running.sent_s = time.monotonic()

    def _refused(self, running: _UpstreamRequest) -> None:
        with self._arrived:
            self._concurrency = self._concurrency.refused(running.sent_s, time.monotonic())

    def _take(self, id: str, running: _UpstreamRequest, deltas: Sequence[calls.OutputDelta]) -> None:
        with self._arrived:
            if id not in self._running:
                return
            for delta in deltas:
                is_first, running.has_begun = not running.has_begun, True
                if is_first:
                    now_s = time.monotonic()
                    self._concurrency = self._concurrency.answered(
                        now_s - running.sent_s, running.prompt_tokens, len(self._running), now_s
                    )
                self._publish(Delta(id, delta.index, delta.text, delta.tokens, delta.logprobs or None, None, is_first))

    def _publish(self, delta: Delta) -> None:
        self._deltas.append(delta)
        self._arrived.notify_all()

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
        """Check the server regularly; no request is claimed while it is unreachable, so that none fails."""
        while True:
            note = await self._health_error()
            is_reachable = note is None
            if is_reachable != self._is_reachable:
                log.warning("model %s: %s", self.info.model, note or "the upstream server is reachable again")
            with self._arrived:
                self._is_reachable = is_reachable
                self.info = replace(self.info, strategy_note=note)
            await asyncio.sleep(HEALTHY_CHECK_S if is_reachable else UNREACHABLE_CHECK_S)

    async def _health_error(self) -> str | None:
        """Return why the server is unreachable, or None. Any response of the server itself means it is reachable."""
        try:
            response = await self._client.get("models", timeout=CONNECT_S)
        except httpx.HTTPError as error:
            return f"the upstream server is unreachable: {type(error).__name__}"
        self._reports_usage = calls.can_report_usage(read_json(response.content))
        # A status of 500 comes from the server itself, which may have no list of models and still answer requests.
        return (
            f"the upstream server is unreachable: status {response.status_code}"
            if response.status_code in TEMPORARY_STATUSES
            else None
        )
