"""What the resident loop asks of a model, whatever the model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from windrow.scheduler.core.outcomes import Failed, Outcome
from windrow.scheduler.core.planning import Batch, Size


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded model says of itself; shown by ``windrow models`` and ``GET /v1/models``."""

    model: str
    task: str
    #: The strategy in effect, which may differ from the one asked for.
    strategy: str
    #: Why it differs; None where it does not.
    strategy_note: str | None
    device: str
    dtype: str
    max_input_tokens: int
    #: Passes are captured graphs, of the sizes that `windrow.worker.engines.loading.batch_limits` has them planned in.
    is_captured: bool = False
    #: Of its rows, against the same texts one by one in float32; None where it was not measured.
    relative_error: float | None = None
    #: Why the dtype in effect is not the one asked for; None where it is.
    dtype_note: str | None = None
    #: Of models that generate: sequences that run at once, and the pages of the cache with the tokens of each.
    max_sequences: int | None = None
    pages: int | None = None
    page_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input made ready for the device."""

    #: Length in tokens, special tokens included; what plans and budgets count.
    tokens: int
    #: Whatever `Engine.forward` of the same engine needs, such as token ids.
    data: Any
    #: Tokens of each sequence, where the request has several; ``tokens`` is their sum.
    lengths: tuple[int, ...] = ()

    @property
    def size(self) -> Size:
        """What it brings into a pass."""
        return (
            Size(self.tokens, len(self.lengths), max(self.lengths))
            if self.lengths
            else Size(self.tokens, 1, self.tokens)
        )


class BatchRaised(Exception):
    """Raised by `Engine.collect` where the model raised ``cause`` after `Engine.forward` had returned.

    An engine that raises it lets any thread call `forward`.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class Preparer(Protocol):
    """What engines of both kinds have."""

    info: EngineInfo
    #: Seconds that the device worked on passes or steps so far, as far as they were collected.
    busy_s: float

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Check and tokenise; same length and order as ``inputs``. A bad input is a `Failed`, never a raise."""
        ...


class Engine(Preparer, Protocol):
    """One loaded model. `prepare` and `collect` may run beside `forward`, each in a thread of its own."""

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        """Run one pass over ``prepared`` (the requests of ``batch``, in its order) and return a handle for `collect`.

        Called by one thread only. Raises whatever the framework raises; the caller bisects.
        """
        ...

    def collect(self, handle: Any) -> list[Outcome]:
        """Wait for the device if need be, and turn the handle into outputs, in the order of the pass.

        Raises `BatchRaised`; the caller bisects.
        """
        ...


#: Between two pieces of one stream, in seconds: a reader sees a stream, and Redis gets 50 entries a second, not 500.
PIECE_S = 0.02
#: Pieces a second of all streams of a model together: each takes the worker's interpreter and Redis some 20 us.
MOST_PIECES_PER_S = 10_000


def output_every_s(streams: int) -> float:
    """How long the tokens of one of so many ``streams`` are gathered before they are told, in seconds."""
    return max(PIECE_S, streams / MOST_PIECES_PER_S)


@dataclass(frozen=True, slots=True)
class Delta:
    """What steps gave one sequence of one request: of streams every `output_every_s`, of others when there is news."""

    #: The request's.
    id: str
    #: Which of its ``n`` choices.
    index: int
    #: New text that may be shown: not half a character, nor what may be the start of a stop string. Of requests that
    #: are not streamed it comes with the outcome only.
    text: str
    #: New tokens, as far as it is known; those that were not come with a later one, at the latest with the outcome.
    tokens: int
    #: Of the new tokens, as OpenAI's ``logprobs.content``; None where they were not asked for.
    logprobs: list[dict[str, Any]] | None
    #: Set once for each request, when all its choices have ended.
    outcome: Outcome | None
    #: The first token of the request is in it.
    first: bool


@runtime_checkable
class StepEngine(Preparer, Protocol):
    """One loaded model that generates: whoever is in gets a token at every step, and anybody may come in between.

    `prepare` may be called by any thread.
    """

    def room(self) -> int:
        """Requests that it is worth adding now. Any thread."""
        ...

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Queue a request for the next step. Any thread.

        ``stream`` asks for text as it comes; greater ``priority`` numbers make room first when the cache is full.
        """
        ...

    def cancel(self, id: str) -> None:
        """End a request without an outcome, within two steps; unknown ids are none of its business. Any thread."""
        ...

    def step(self) -> Any | None:
        """Start the next step and return a handle for `collect`; None where there is nothing to do. One thread.

        Waits where too many handles have not been collected. Raises where the device is of no use any more.
        """
        ...

    def collect(self, handle: Any) -> list[Delta]:
        """Wait for the device and say what the step gave, in the order of `step`. Another thread, or the same."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Return when there may be something to do, at the latest after ``timeout_s``."""
        ...


@runtime_checkable
class Preempts(Protocol):
    """A `StepEngine` in which the less important give way to the more important."""

    def room_over_others(self, priority: int) -> int:
        """Requests of ``priority``, or of smaller numbers, that would come in over others; 0 where none has a greater
        number. Any thread.
        """
        ...
