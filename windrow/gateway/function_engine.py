"""A plain function as an engine."""

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
    """Calls the function once a pass. Each input counts as one token, and there are no parameters."""

    def __init__(self, function: BatchFunction) -> None:
        """Raises `TypeError` for what is not such a function."""
        name = getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise TypeError(f"takes an engine, a function of a list of inputs, or the URL of a server (got {name})")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{name} is a coroutine function; it takes one that returns a list: it runs in a thread")
        self.info = EngineInfo(name, "function", "dynamic", None, "cpu", "any", max_input_tokens=1)
        self.busy_s = 0.0
        self._function = function

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Every input as it is."""
        refused = Failed(InvalidInput("parameters: a function takes none; put them into the input"))
        return [refused if wishes else Prepared(1, one) for one, wishes in zip(inputs, parameters, strict=True)]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        """What the function returned, and for how many inputs."""
        return self._function([one.data for one in prepared]), len(prepared)

    def collect(self, handle: Any) -> list[Outcome]:
        """Its outputs one by one. A wrong kind or number of them is nobody's fault among the inputs: all fail."""
        outputs, count = handle
        if isinstance(outputs, (str, bytes, Mapping)) or not hasattr(outputs, "__len__"):
            given = type(outputs).__name__
        elif len(outputs) != count:
            given = f"{len(outputs)} outputs for {count} inputs"
        else:
            return [Done(one) for one in outputs]
        wrong = f"{self.info.model} returned {given}; it takes a list with one output for each input, in order"
        return [Failed(ModelFailed(wrong))] * count
