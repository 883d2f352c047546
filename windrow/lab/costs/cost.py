"""How long a forward pass takes: a straight line, or several pieces of one over the cores of a CPU."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from windrow.lab.costs.cpu_cores import CpuCores
from windrow.scheduler.core.core_split import cut_evenly
from windrow.scheduler.core.planning import Batch, bucket_length

VERSION = 1


@dataclass(frozen=True, slots=True)
class PassCost:
    """``pass_s + token_s * tokens + sequence_s * sequences``.

    On a device that is a pass. On ``lanes``, the cores of a CPU, it is a piece of one on a lane that runs alone: a pass
    is cut as the worker cuts it, and is over with the last of its pieces.
    """

    pass_s: float
    token_s: float
    sequence_s: float = 0.0
    lanes: int = 1
    #: By what factors measured passes missed the line, as equally likely; empty where all lie on it.
    spread: tuple[float, ...] = ()
    #: Of a lane, for each request that comes: what the API, Redis, the client and the worker itself do for it beside
    #: the passes, which may find no core that is free.
    chore_s: float = 0.0

    def __post_init__(self) -> None:
        parts = (self.pass_s, self.token_s, self.sequence_s, self.chore_s, *self.spread)
        if not all(0 <= part < math.inf for part in parts) or self.lanes < 1:
            raise ValueError("a cost takes seconds of 0 or more, and 1 lane or more")

    def seconds(self, tokens: int, sequences: int) -> float:
        """Of a pass that is not cut, over ``tokens``, padding included; or of a piece of one, alone."""
        return self.pass_s + self.token_s * tokens + self.sequence_s * sequences

    def pieces_s(self, batch: Batch, lengths: Sequence[int]) -> list[float]:
        """Seconds of each piece of ``batch``, planned from a row of ``lengths``, in the order in which they begin."""
        if self.lanes == 1:
            return [self.seconds(batch.tokens, len(batch.indices))]
        return self.cut_s([batch.padded_length or lengths[index] for index in batch.indices])

    def cut_s(self, lengths: Sequence[int]) -> list[float]:
        """Seconds of each piece of a pass over sequences of ``lengths``, padding included."""
        if self.lanes == 1:
            return [self.seconds(sum(lengths), len(lengths))]
        parts = cut_evenly(lengths, self.lanes)
        return [self.seconds(sum(lengths[part]), part.stop - part.start) for part in parts]

    def of_batch(self, batch: Batch, lengths: Sequence[int]) -> float:
        """Seconds of ``batch`` on a device, or on lanes, that runs nothing else."""
        lanes = CpuCores(self.lanes)
        lanes.add(0, self.pieces_s(batch, lengths), 0.0)
        over_s = 0.0
        while lanes.pieces:
            over_s = lanes.ends_s
            lanes.end(over_s)
        return over_s


@dataclass(frozen=True, slots=True)
class StepRuns:
    """How a device runs the steps of generation, whatever they cost."""

    #: Steps that are planned while one runs, and that who comes then is not in: 1 where the device is never waited for.
    ahead: int = 0
    #: Sizes that were captured: sequences that decode, and tokens of prompts, are rounded up to them.
    row_rungs: tuple[int, ...] = ()
    token_rungs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.ahead not in (0, 1):
            raise ValueError(f"ahead is {self.ahead!r}; it takes 0 or 1")
        for rungs in (self.row_rungs, self.token_rungs):
            if any(rung < 1 for rung in rungs) or list(rungs) != sorted(rungs):
                raise ValueError(f"sizes that were captured are {list(rungs)}; takes rising numbers of 1 or more")

    def computed(self, rows: int, prompt_tokens: int) -> tuple[int, int]:
        """Rows that decode, and tokens of prompts, which a step computes for so many; none for none."""
        return (
            bucket_length(rows, self.row_rungs) if rows else 0,
            bucket_length(prompt_tokens, self.token_rungs) if prompt_tokens else 0,
        )


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """A step of generation: ``step_s + token_s * tokens + sequence_s * sequences + cache_token_s * cached tokens``.

    ``tokens`` are those computed: the chunks of prompts, and one for each sequence that decodes.
    """

    step_s: float
    token_s: float
    sequence_s: float = 0.0
    cache_token_s: float = 0.0
    #: More, where a step reads prompts: they take a pass of their own.
    read_s: float = 0.0
    runs: StepRuns = StepRuns()

    def __post_init__(self) -> None:
        parts = (self.step_s, self.token_s, self.sequence_s, self.cache_token_s, self.read_s)
        if not all(0 <= part < math.inf for part in parts):
            raise ValueError("a cost takes seconds of 0 or more")

    def seconds(self, tokens: int, sequences: int, cached_tokens: int, *, reads: bool) -> float:
        """Of a step over ``tokens`` of ``sequences`` whose caches hold ``cached_tokens`` in all."""
        took_s = self.step_s + self.token_s * tokens + self.sequence_s * sequences + self.cache_token_s * cached_tokens
        return took_s + self.read_s if reads else took_s


@dataclass(frozen=True, slots=True)
class CostModel:
    """What a device takes for the passes of one model; a file that ``windrow tune`` writes."""

    #: ``none``, ``static``, ``dynamic`` and ``bucket``; None of a model that generates.
    padded: PassCost | None
    packed: PassCost | None
    decode: DecodeCost | None = None
    #: From a submit until a device that waits can start on it: queue, claim, tokenising and threads.
    handover_s: float = 0.0
    #: Which model on which device, and how well the lines fit; for people.
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.handover_s < math.inf:
            raise ValueError("handover_s takes seconds of 0 or more")

    def of_strategy(self, strategy: str) -> PassCost:
        """The line that a strategy's passes lie on. Raises `ValueError` where the model has none."""
        line = self.packed if strategy == "packed" else self.padded
        if line is None:
            raise ValueError(
                f"the costs of {self.about.get('model', 'a model')!r} say nothing of passes, only of generation; "
                "takes those of a model that answers in one pass"
            )
        return line


def read_cost(path: Path) -> CostModel:
    """Read what `write_cost` wrote. Raises `ValueError` naming the file and what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("windrow_cost") != VERSION:
            raise ValueError("another version")
        decode = found["decode"]
        return CostModel(
            _read_pass(found["padded"]),
            _read_pass(found["packed"]),
            None if decode is None else _read_decode(decode),
            float(found["handover_s"]),
            found["about"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a cost file as `windrow tune` writes it ({type(error).__name__}: {error})"
        ) from None


def decode_cost(cost: CostModel, path: Path) -> DecodeCost:
    """What steps of generation take. Raises `ValueError` where ``path``, which it was read from, does not say."""
    if cost.decode is None:
        raise ValueError(f"{path}: it says nothing of generation; its entry decode is empty")
    return cost.decode


def _read_pass(found: dict[str, Any] | None) -> PassCost | None:
    return None if found is None else PassCost(**{**found, "spread": tuple(found["spread"])})


def _read_decode(found: dict[str, Any]) -> DecodeCost:
    runs = read_runs(found["runs"]) if "runs" in found else StepRuns()
    return DecodeCost(**{**found, "runs": runs})


def read_runs(found: dict[str, Any]) -> StepRuns:
    """Read it back from JSON. Raises `ValueError`, `KeyError` or `TypeError`."""
    row_rungs, token_rungs = (tuple(int(rung) for rung in found[name]) for name in ("row_rungs", "token_rungs"))
    return StepRuns(int(found["ahead"]), row_rungs, token_rungs)


def write_cost(path: Path, cost: CostModel) -> None:
    """Write ``cost`` as JSON."""
    path.write_text(json.dumps({"windrow_cost": VERSION, **asdict(cost)}, indent=2) + "\n", encoding="utf-8")
