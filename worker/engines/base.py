"""The interface between Windrow and a model: the protocols `Engine` and `StepEngine`.

An engine loads one model in its constructor and then answers requests with it. There are two kinds:

- `Engine` answers a request with one forward pass, for example an encoder, a classifier or an image model.
- `StepEngine` generates an answer step by step, for example a language model. Requests join and leave between steps.

An engine is a class with the members of one of these protocols and needs no base class; `loading` calls it with the
name and the settings of the model. A complete `Engine`::

    class LengthEngine:
        def __init__(self, name: str, settings: ModelSettings) -> None:
            self.info = EngineInfo(name, settings.task, settings.strategy, None, "cpu", "float32", max_input_tokens=512)
            self.busy_s = 0.0

        def prepare(self, inputs, parameters):
            return [
                Prepared(len(text), text) if isinstance(text, str) else Failed(InvalidInput("input: takes a string"))
                for text in inputs
            ]

        def forward(self, prepared, batch):
            return [len(request.data) for request in prepared]

        def collect(self, handle):
            return [Done({"length": length}) for length in handle]

What happens to a request, and on which thread (all in the pool process that loaded the model):

1. ``prepare`` validates and tokenizes a list of claimed inputs. Several threads call it at the same time, also beside
   all other methods.
2. The scheduler splits the prepared requests into batches, by the `Prepared.size` of each and the model's strategy.
3. ``forward`` starts one batch on the device. One thread calls it, for one batch at a time, and it should not wait for
   the device: while the device works on this batch, the thread launches the next one.
4. ``collect`` waits for a batch and returns its outcomes. One thread at a time calls it, in the order of the batches,
   at the same time as another thread calls ``forward``.

Errors: a bad input is a `Failed` in the list that ``prepare`` or ``collect`` returns, and never an exception, so that
it does not fail the other requests. If ``prepare`` raises anyway, Windrow repeats it for each input alone; if a batch
raises, Windrow repeats it in halves until it has found the request that causes the exception. Running out of memory
also lowers the size of later batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from windrow.scheduler.core.outcomes import Failed, Outcome
from windrow.scheduler.core.planning import Batch, Size


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts about a loaded model, shown by ``windrow models`` and ``GET /v1/models``."""

    #: The name of the model in windrow.toml.
    model: str
    task: str
    #: The strategy in effect, which may differ from the one in the settings.
    strategy: str
    #: The reason why it differs; None if it does not.
    strategy_note: str | None
    #: ``cpu`` or ``cuda``.
    device: str
    #: The number format of the weights, such as ``bfloat16``.
    dtype: str
    #: The longest sequence that the model takes, in tokens, special tokens included.
    max_input_tokens: int
    #: Whether batches run as captured CUDA graphs; `windrow.worker.engines.loading.batch_limits` then plans batches in
    #: the captured sizes.
    is_captured: bool = False
    #: Largest relative error of the model's outputs for test texts, against the same texts one by one in float32. None
    #: if it was not measured.
    relative_error: float | None = None
    #: The reason why the dtype in effect is not the one in the settings; None if it is.
    dtype_note: str | None = None
    #: Generation only: maximum concurrent sequences, KV-cache pages, tokens per page.
    max_sequences: int | None = None
    pages: int | None = None
    page_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input that is ready for the device."""

    #: Cost of the request, which batches and budgets count: for text its length in tokens, special tokens included.
    tokens: int
    #: Whatever the engine's own ``forward`` or ``add`` needs, such as token ids. Windrow does not look at it.
    data: Any
    #: Tokens of each sequence if the request has several, such as the pairs of a reranker; ``tokens`` is their sum.
    lengths: tuple[int, ...] = ()

    @property
    def size(self) -> Size:
        """The tokens, sequences and longest sequence that this request adds to a batch."""
        return (
            Size(self.tokens, len(self.lengths), max(self.lengths))
            if self.lengths
            else Size(self.tokens, 1, self.tokens)
        )


class BatchRaised(Exception):
    """Raised by `Engine.collect` if the model raised ``cause`` after `Engine.forward` had returned.

    Windrow then repeats the batch in halves from the thread that called `Engine.collect`, so an engine that raises this
    must allow any thread to call `Engine.forward`.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class EngineBase(Protocol):
    """The members that both kinds of engine have."""

    info: EngineInfo
    #: Seconds for which the device has worked so far, counted when a batch or step is collected.
    busy_s: float

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Validate and tokenize ``inputs``, with the request's ``parameters`` for each.

        Returns one item per input, in the same order: a `Prepared`, or a `Failed` with the error of a bad input.
        Called by several threads at the same time. It should use the CPU only and be quick: requests wait for it.
        """
        ...


class Engine(EngineBase, Protocol):
    """A loaded model that answers each request with one forward pass."""

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        """Start the forward pass of one batch and return a handle for `collect`.

        ``prepared`` are the requests of the batch in order. ``batch.tokens`` is its size after padding, and
        ``batch.padded_length`` the length to which the strategy pads each sequence, or None for a packed batch, whose
        sequences lie end to end.

        Called by one thread at a time. Should return as soon as the device has the work. May raise any exception.
        """
        ...

    def collect(self, handle: Any) -> list[Outcome]:
        """Wait for a batch and return its outcomes, one per request and in the order of `forward`.

        An outcome is a `Done` with the output of the request, as the API returns it (numpy arrays are allowed), or a
        `Failed`. Called by one thread at a time, beside `forward`. Raises `BatchRaised` if the batch failed as a whole;
        any other exception ends the process, which the pool replaces.
        """
        ...


#: Minimum time between two events of one stream, in seconds: short enough to look continuous, and 50 Redis entries a
#: second instead of one per token.
STREAM_INTERVAL_S = 0.02
#: Maximum number of events per second of all streams of a model together; each costs the worker and Redis about 20 us.
MAX_STREAM_EVENTS_PER_S = 10_000


def stream_interval_s(streams: int) -> float:
    """Return the time, in seconds, for which the tokens of one stream are collected into an event.

    ``streams`` is the number of streams that are open now.
    """
    return max(STREAM_INTERVAL_S, streams / MAX_STREAM_EVENTS_PER_S)


@dataclass(frozen=True, slots=True)
class Delta:
    """New output of one choice of one request.

    A streamed request gets one every `stream_interval_s`; any other request gets one with its first token and one with
    its outcome.
    """

    #: The id given to `StepEngine.add`.
    id: str
    #: The index of the choice, from 0; a request with ``n`` asks for n of them.
    index: int
    #: New text that is final: it ends neither inside a character nor inside a possible stop string. Requests that are
    #: not streamed get their text with the outcome only.
    text: str
    #: Number of new tokens known so far. Tokens left out here are counted in a later delta, at most in the last one.
    tokens: int
    #: One entry per new token in the format of OpenAI's ``logprobs.content``; None if the request does not ask for it.
    logprobs: list[dict[str, Any]] | None
    #: The outcome of the request, set exactly once: when all of its choices are finished.
    outcome: Outcome | None
    #: Whether this delta contains the first token of the request.
    first: bool


@runtime_checkable
class StepEngine(EngineBase, Protocol):
    """A loaded model that generates: each step gives a token to every running sequence.

    Requests can be added between any two steps. One thread calls `step` and `wait`, another one `collect`; any thread
    calls the other methods.
    """

    def room(self) -> int:
        """Return how many more requests are worth adding now. Any thread."""
        ...

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Queue a request for the next step. Any thread.

        With ``stream``, `collect` returns text while it is generated. The most important requests have ``priority`` 0;
        when the KV cache is full, those with the greatest number are preempted first.
        """
        ...

    def cancel(self, id: str) -> None:
        """Stop a request within two steps, without an outcome; unknown ids are ignored. Any thread."""
        ...

    def step(self) -> Any | None:
        """Start the next step and return a handle for `collect`, or None if no request is running. Step thread.

        Blocks while too many handles are not collected yet. Raises if the device can no longer be used; the process
        then exits.
        """
        ...

    def collect(self, handle: Any) -> list[Delta]:
        """Wait for a step and return the new output of its requests. Called once per handle, in the order of `step`.

        Collect thread.
        """
        ...

    def wait(self, timeout_s: float) -> None:
        """Return when there may be work for `step`, at most ``timeout_s`` seconds later. Step thread."""
        ...


@runtime_checkable
class SupportsPreemption(Protocol):
    """A `StepEngine` that preempts requests of low priority in favour of requests of high priority."""

    def room_by_preemption(self, priority: int) -> int:
        """Return how many requests with this ``priority`` number or a smaller one fit if others are preempted.

        Returns 0 if no running request has a greater number. Any thread.
        """
        ...


@dataclass(frozen=True, slots=True)
class CacheMetrics:
    """Part of every heartbeat, beside `EngineInfo.pages`."""

    #: Pages that belong to a sequence. The others are free, or keep a shared prefix until their memory is needed.
    pages_taken: int
    #: Number of preemptions since the start.
    preemptions: int


@runtime_checkable
class HasCache(Protocol):
    """An engine that has a paged cache."""

    def cache_use(self) -> CacheMetrics:
        """Return the present values. Any thread."""
        ...
