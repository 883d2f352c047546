"""`InferenceGateway`: what a notebook or a test holds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, cast

from windrow.client.async_client import AsyncClient
from windrow.gateway.config import InferenceConfig
from windrow.gateway.function_engine import BatchFunction, FunctionEngine
from windrow.gateway.in_process import InProcess
from windrow.gateway.loaded import load, plain
from windrow.gateway.through_server import ThroughServer
from windrow.worker.engines.base import Engine


class InferenceGateway:
    """One call, `infer`, whether requests are batched or not, in this process or by a server.

    ``backend`` is an engine (`windrow.worker.engines.base.Engine`), a function of a list of inputs that returns a list
    of as
    many outputs, or the URL of a Windrow server. Without one, ``model`` of windrow.toml is loaded into this process;
    with no such file that is ``minilm``. Many tasks may call it at once, and so may event loops in several threads.
    """

    def __init__(
        self,
        config: InferenceConfig | None = None,
        backend: Engine | BatchFunction | str | None = None,
        *,
        model: str = "minilm",
    ) -> None:
        if config is not None and not isinstance(config, InferenceConfig):
            given = getattr(config, "__name__", type(config).__name__)
            raise TypeError(f"the first argument takes an InferenceConfig (got {given}); what runs comes second")
        self.config = config or InferenceConfig()
        self._backend = backend
        self._model = model
        self._runs: InProcess | ThroughServer | None = None
        self._is_closed = False
        self._changing = asyncio.Lock()

    async def initialize(self) -> None:
        """Load the model, or prepare to call the server; once it is done, again does nothing.

        Raises `ModelUnusable`, `UnknownModel` or `InvalidSetting` of `windrow.errors`, `ValueError` for a URL
        that is none, `TypeError` for a backend that is none of the three, and `RuntimeError` after `close`.
        """
        async with self._changing:
            if self._is_closed:
                raise RuntimeError("the gateway was closed, and is not opened again: make another InferenceGateway")
            if self._runs is None:
                self._runs = await self._start()

    async def infer(self, input: Any, *, parameters: Mapping[str, Any] | None = None) -> Any:
        """The output for one input: what ``GET /v1/predictions/{id}`` has as ``output``, or what the function gave.

        Raises `windrow.errors.RequestRefused` where the input is not taken (``invalid_input``, ``queue_full``, ...) and
        `windrow.errors.PredictionFailed` where the model failed on it; neither concerns any other call. A task that is
        canceled takes its request out of the queue.
        """
        return await self._running().infer(input, parameters or {})

    async def health(self) -> dict[str, Any]:
        """``status`` (``ok``, ``failed``, ``closed``), ``mode``, ``model``, ``device``, ``strategy`` and ``batching``.

        ``batching`` holds ``total_batches``, ``total_requests``, ``avg_batch_size``, ``avg_batch_duration_ms``,
        ``queue_depth`` and ``wait_ms``, the window in use.
        """
        runs = self._running()
        return runs.health() if isinstance(runs, InProcess) else await runs.health()

    async def close(self) -> None:
        """End the pass that runs; requests that were not started raise `PredictionFailed` with ``canceled``.

        Waits for an `initialize` that is under way. Closing twice does no more than once.
        """
        async with self._changing:
            self._is_closed = True
            if self._runs is not None:
                await self._runs.close()

    async def __aenter__(self) -> InferenceGateway:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _start(self) -> InProcess | ThroughServer:
        config, backend = self.config, self._backend
        if isinstance(backend, str):
            return ThroughServer(AsyncClient(backend), self._model)
        if backend is None:
            engine, passes = await asyncio.to_thread(load, self._model, config)
        elif all(hasattr(backend, name) for name in ("prepare", "forward", "collect")):
            engine, passes = cast(Engine, backend), config.passes
        else:
            function = FunctionEngine(cast(BatchFunction, backend))
            return InProcess(function, config.window, config.passes, config.max_queue_size)
        return InProcess(engine, config.window, passes, config.max_queue_size, convert=plain)

    def _running(self) -> InProcess | ThroughServer:
        if self._runs is None and self._is_closed:
            raise RuntimeError("the gateway was closed before it was initialized: make another InferenceGateway")
        if self._runs is None:
            raise RuntimeError("the gateway is not initialized: `await gateway.initialize()` first, or `async with` it")
        return self._runs
