"""Cost models: how long a batch or a decode step takes. A batch on a CPU is split into pieces over its cores."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from windrow.lab.costs.cpu_cores import CpuCores
from windrow.lab.json_values import read_as
from windrow.scheduler.core.core_split import cut_evenly
from windrow.scheduler.core.planning import Batch, bucket_length

VERSION = 1

#: For pydantic: a misspelled field in a cost file is an error.
REFUSE_UNKNOWN = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class PassCost:
    """Seconds of one batch: ``pass_s + token_s * tokens + sequence_s * sequences``.

    On a CPU with several ``lanes`` (cores), the formula gives the time of one piece on an otherwise idle core. A batch
    is cut into pieces as the worker cuts it, and finishes with its last piece.
    """

    __pydantic_config__: ClassVar = REFUSE_UNKNOWN

    pass_s: float
    token_s: float
    sequence_s: float = 0.0
    lanes: int = 1
    #: Ratios of measured to predicted times, all equally likely; empty if the formula is exact.
    spread: tuple[float, ...] = ()
    #: Core seconds per arriving request that the API, Redis, the client and the worker spend beside the batches, which
    #: compete with them for cores.
    chore_s: float = 0.0

    def __post_init__(self) -> None:
        parts = (self.pass_s, self.token_s, self.sequence_s, self.chore_s, *self.spread)
        if not all(0 <= part < math.inf for part in parts) or self.lanes < 1:
            raise ValueError("a cost takes seconds of 0 or more, and lanes (CPU cores) of 1 or more")

    def seconds(self, tokens: int, sequences: int) -> float:
        """Return the seconds of an uncut batch, or of one piece on an idle core; ``tokens`` includes padding."""
        return self.pass_s + self.token_s * tokens + self.sequence_s * sequences

    def pieces_s(self, batch: Batch, lengths: Sequence[int]) -> list[float]:
        """Return the seconds of each piece of ``batch``, planned from requests of ``lengths``, in order of start."""
        if self.lanes == 1:
            return [self.seconds(batch.tokens, len(batch.indices))]
        return self.cut_s([batch.padded_length or lengths[index] for index in batch.indices])

    def cut_s(self, lengths: Sequence[int]) -> list[float]:
        """Return the seconds of each piece of a batch of sequences with these ``lengths``, padding included."""
        if self.lanes == 1:
            return [self.seconds(sum(lengths), len(lengths))]
        parts = cut_evenly(lengths, self.lanes)
        return [self.seconds(sum(lengths[part]), part.stop - part.start) for part in parts]

    def of_batch(self, batch: Batch, lengths: Sequence[int]) -> float:
        """Return the seconds of ``batch`` on an otherwise idle device or CPU."""
        lanes = CpuCores(self.lanes)
        lanes.add(0, self.pieces_s(batch, lengths), 0.0)
        over_s = 0.0
        while lanes.pieces:
            over_s = lanes.ends_s
            lanes.end(over_s)
        return over_s


@dataclass(frozen=True, slots=True)
class StepRuns:
    """How a device runs decode steps, independent of their cost."""

    __pydantic_config__: ClassVar = REFUSE_UNKNOWN

    #: Steps that are planned while another runs, without requests that arrive meanwhile: 1 if the device never waits.
    ahead: int = 0
    #: Sizes with captured CUDA graphs, to which decoding sequences and prompt tokens are rounded up.
    row_rungs: tuple[int, ...] = ()
    token_rungs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.ahead not in (0, 1):
            raise ValueError(f"ahead {self.ahead!r}: takes 0 or 1")
        for rungs in (self.row_rungs, self.token_rungs):
            if any(rung < 1 for rung in rungs) or list(rungs) != sorted(rungs):
                raise ValueError(f"captured sizes {list(rungs)}: takes increasing numbers of 1 or more")

    def computed(self, rows: int, prompt_tokens: int) -> tuple[int, int]:
        """Return the padded numbers of decoding sequences and of prompt tokens; 0 stays 0."""
        return (
            bucket_length(rows, self.row_rungs) if rows else 0,
            bucket_length(prompt_tokens, self.token_rungs) if prompt_tokens else 0,
        )


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Seconds of one step: ``step_s + token_s * tokens + sequence_s * sequences + cache_token_s * cached tokens``.

    ``tokens`` counts computed tokens: the prompt chunks, and one for each decoding sequence.
    """

    __pydantic_config__: ClassVar = REFUSE_UNKNOWN

    step_s: float
    token_s: float
    sequence_s: float = 0.0
    cache_token_s: float = 0.0
    #: Added if the step prefills prompts, which need a forward pass of their own.
    read_s: float = 0.0
    runs: StepRuns = StepRuns()

    def __post_init__(self) -> None:
        parts = (self.step_s, self.token_s, self.sequence_s, self.cache_token_s, self.read_s)
        if not all(0 <= part < math.inf for part in parts):
            raise ValueError("a cost takes seconds of 0 or more")

    def seconds(self, tokens: int, sequences: int, cached_tokens: int, *, reads: bool) -> float:
        """Return the seconds of a step; ``cached_tokens`` is the total KV cache of its sequences."""
        took_s = self.step_s + self.token_s * tokens + self.sequence_s * sequences + self.cache_token_s * cached_tokens
        return took_s + self.read_s if reads else took_s


@dataclass(frozen=True, slots=True)
class CostModel:
    """The costs of one model on one device, as ``windrow tune`` writes them to a file."""

    #: Cost for the strategies ``none``, ``static``, ``dynamic`` and ``bucket``; None for a model that generates.
    padded: PassCost | None
    packed: PassCost | None
    decode: DecodeCost | None = None
    #: Seconds from a submit until an idle device can start: queue, claim, tokenization and thread switches.
    handover_s: float = 0.0
    #: Model, device and quality of the fit, for people.
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.handover_s < math.inf:
            raise ValueError("handover_s takes seconds of 0 or more")

    def of_strategy(self, strategy: str) -> PassCost:
        """Return the cost for a strategy; raises `ValueError` if the model has none."""
        line = self.packed if strategy == "packed" else self.padded
        if line is None:
            raise ValueError(
                f"the costs of {self.about.get('model', 'a model')!r} are those of text generation; "
                "takes those of a model that answers in one forward pass"
            )
        return line


def read_cost(path: Path) -> CostModel:
    """Read a file that `write_cost` wrote; raises `ValueError` with the file and the problem."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("windrow_cost") != VERSION:
            raise ValueError("another version")
        return read_as(CostModel, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a cost file as `windrow tune` writes it ({type(error).__name__}: {error})"
        ) from None


def decode_cost(cost: CostModel, path: Path) -> DecodeCost:
    """Return the cost of decode steps; raises `ValueError` if the file ``path`` has none."""
    if cost.decode is None:
        raise ValueError(f"{path}: has no costs of text generation; its entry decode is empty")
    return cost.decode


def write_cost(path: Path, cost: CostModel) -> None:
    """Write ``cost`` as JSON."""
    path.write_text(json.dumps({"windrow_cost": VERSION, **asdict(cost)}, indent=2) + "\n", encoding="utf-8")
