"""`FunctionEngine`: a plain function as an engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from windrow.errors import InvalidInput, ModelFailed
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.worker.engines.base import EngineInfo, Prepared

#: ``list[input] -> list[output]``, in the same order.
BatchFunction = Callable[[list[Any]], Sequence[Any]]


class FunctionEngine:
    """Calls the function once per batch. Each input counts as one token; parameters are refused."""

    def __init__(self, function: BatchFunction) -> None:
        """Raises `TypeError` if ``function`` is not callable, or is a coroutine function."""
        name = getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise TypeError(f"takes an engine, a function of a list of inputs, or the URL of a server (got {name})")
        if inspect.iscoroutinefunction(function):
            raise TypeError(
                f"{name} is a coroutine function; takes a function that returns a list, which is called in a thread"
            )
        self.info = EngineInfo(name, "function", "dynamic", None, "cpu", "any", max_input_tokens=1)
        self.busy_s = 0.0
        self._function = function

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Return the inputs unchanged; refuse requests with parameters."""
        refused = Failed(InvalidInput("parameters: a function takes none; pass them as part of the input"))
        return [refused if options else Prepared(1, input) for input, options in zip(inputs, parameters, strict=True)]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        """Return the result of the function and the number of inputs."""
        return self._function([input.data for input in prepared]), len(prepared)

    def collect(self, handle: Any) -> list[Outcome]:
        """Return one outcome per input; if the function returned anything else than one output per input, all fail."""
        outputs, count = handle
        if isinstance(outputs, (str, bytes, Mapping)) or not hasattr(outputs, "__len__"):
            given = type(outputs).__name__
        elif len(outputs) != count:
            given = f"{len(outputs)} outputs for {count} inputs"
        else:
            return [Done(output) for output in outputs]
        wrong = f"{self.info.model} returned {given}; it must return a list with one output for each input, in order"
        return [Failed(ModelFailed(wrong))] * count
