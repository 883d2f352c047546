"""`InferenceGateway`: batched inference for notebooks, tests and small applications."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from windrow.client.async_client import AsyncClient
from windrow.errors import ModelUnusable, UnknownModel
from windrow.gateway.config import InferenceConfig
from windrow.gateway.function_engine import BatchFunction, FunctionEngine
from windrow.gateway.in_process import InProcess
from windrow.gateway.through_server import ThroughServer
from windrow.scheduler.config.settings import load_settings
from windrow.scheduler.core.planning import BatchLimits
from windrow.worker.engines.base import Engine


class InferenceGateway:
    """Runs inference by one call, `infer`, with or without batching, in this process or on a server.

    ``backend`` is an engine (`windrow.worker.engines.base.Engine`), a function from a list of inputs to a list of as
    many outputs, or the URL of a Windrow server. Without ``backend``, ``model`` of windrow.toml is loaded into this
    process; without a windrow.toml, the only model is ``minilm``. Concurrent tasks may call the gateway, and so may
    event loops in several threads.
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
            raise TypeError(f"config: takes an InferenceConfig (got {given}); the backend is the second argument")
        self.config = config or InferenceConfig()
        self._backend = backend
        self._model = model
        self._runner: InProcess | ThroughServer | None = None
        self._is_closed = False
        self._lock = asyncio.Lock()

    async def initialize(self) -> None:
        """Load the model, or prepare calls of the server; further calls have no effect.

        Raises `ModelUnusable`, `UnknownModel` or `InvalidSetting` of `windrow.errors`, `ValueError` for an invalid URL,
        `TypeError` for any other backend, and `RuntimeError` after `close`.
        """
        async with self._lock:
            if self._is_closed:
                raise RuntimeError("the gateway is closed; create another InferenceGateway")
            if self._runner is None:
                self._runner = await self._start()

    async def infer(self, input: Any, *, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the output for one input: the ``output`` of a prediction, or the item that the function returned.

        Raises `windrow.errors.RequestRefused` for a refused input (``invalid_input``, ``queue_full``, ...) and
        `windrow.errors.PredictionFailed` if the model failed on it; other calls are not affected. If the calling
        task is canceled, its request leaves the queue.
        """
        return await self._initialized().infer(input, parameters or {})

    async def health(self) -> dict[str, Any]:
        """Return ``status``, ``mode``, ``model``, ``device``, ``strategy`` and ``batching``.

        ``status`` is ``ok``, ``failed`` or ``closed``. ``batching`` contains ``total_batches``, ``total_requests``,
        ``avg_batch_size``, ``avg_batch_duration_ms``, ``queue_depth`` and ``wait_ms``, the current window.
        """
        runner = self._initialized()
        return runner.health() if isinstance(runner, InProcess) else await runner.health()

    async def close(self) -> None:
        """Finish the current batch; queued requests raise `PredictionFailed` with the code ``canceled``.

        Waits until a concurrent `initialize` has finished. Further calls have no effect.
        """
        async with self._lock:
            self._is_closed = True
            if self._runner is not None:
                await self._runner.close()

    async def __aenter__(self) -> InferenceGateway:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _start(self) -> InProcess | ThroughServer:
        config, backend = self.config, self._backend
        if isinstance(backend, str):
            return ThroughServer(AsyncClient(backend), self._model)
        if backend is None:
            engine, limits = await asyncio.to_thread(_load, self._model, config)
        elif all(hasattr(backend, name) for name in ("prepare", "forward", "collect")):
            engine, limits = cast(Engine, backend), config.batch_limits
        else:
            function = FunctionEngine(cast(BatchFunction, backend))
            return InProcess(function, config.window, config.batch_limits, config.max_queue_size)
        return InProcess(engine, config.window, limits, config.max_queue_size, convert=_to_lists)

    def _initialized(self) -> InProcess | ThroughServer:
        if self._runner is None and self._is_closed:
            raise RuntimeError("the gateway was closed before it was initialized; create another InferenceGateway")
        if self._runner is None:
            raise RuntimeError(
                "the gateway is not initialized: call `await gateway.initialize()` first, or use `async with`"
            )
        return self._runner


def _load(model: str, config: InferenceConfig) -> tuple[Engine, BatchLimits]:
    """Load ``model`` of the settings with the limits of ``config``."""
    models = load_settings().models
    if model not in models:
        raise UnknownModel(f"no model {model!r} is configured; configured are {', '.join(models)}")
    window = config.window
    limits = {"max_batch_size": window.max_batch_size, "max_batch_tokens": window.max_batch_tokens}
    settings = models[model].model_copy(update=limits)
    try:
        from windrow.worker.engines.loading import batch_limits, load_batch_engine  # imports torch

        engine = load_batch_engine(model, settings)
    except ModuleNotFoundError as error:
        advice = f"the package {error.name!r} is not installed; pip install 'windrow-inference[worker]'"
        raise ModelUnusable(f"model {model!r} cannot be loaded into this process: {advice}") from None
    return engine, batch_limits(settings, engine.info)


def _to_lists(output: Any) -> Any:
    """Return an output of an engine as a server returns it: with lists instead of arrays."""
    if isinstance(output, dict):
        return {name: _to_lists(value) for name, value in output.items()}
    return output.tolist() if hasattr(output, "tolist") else output
