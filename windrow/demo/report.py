"""The results of the demonstration: batches, rates and a comparison of the outputs, computed from the predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from windrow.demo.scenes import Answer, Run
from windrow.demo.streams import StreamedAnswer

BASELINE = "none"
#: Minimum cosine between an embedding and the unbatched one: float32 gives 1 - 1e-6, bfloat16 about 0.9998.
MIN_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class BatchSeen:
    """One batch, as the metrics of its predictions describe it."""

    id: str
    #: Indexes of its requests among the answers, in order.
    places: tuple[int, ...]
    size: int
    #: Tokens, padding included.
    tokens: int
    padding_ratio: float
    compute_ms: float
    worker: str


@dataclass(frozen=True, slots=True)
class Summary:
    """One row of the final table."""

    strategy: str
    requests: int
    failed: int
    batches: int
    mean_batch_size: float
    padding_ratio: float
    requests_per_s: float
    #: Relative to the strategy `BASELINE`; None without its run.
    speedup: float | None
    median_ms: float
    #: Minimum cosine between an embedding and that of the same text in the run of `BASELINE`.
    least_cosine: float | None

    @property
    def is_right(self) -> bool:
        """Whether every request succeeded with the same embedding as without batching."""
        return not self.failed and (self.least_cosine is None or self.least_cosine >= MIN_COSINE)


def collect_batches(answers: Sequence[Answer]) -> list[BatchSeen]:
    """Group answers by their batch, in the order of the first request of each batch."""
    places: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer.prediction is not None and "batch_size" in answer.prediction.metrics:
            places.setdefault(str(answer.prediction.metrics.get("batch_id")), []).append(place)
    return [_batch(id, members, answers) for id, members in places.items()]


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """Return one row per run; speed and embeddings are compared with the run of `BASELINE`."""
    baseline = next((run for run in runs if run.strategy == BASELINE), None)
    return [_summary(run, baseline) for run in runs]


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors; 0 if one is zero."""
    lengths = math.hypot(*left) * math.hypot(*right)
    return sum(a * b for a, b in zip(left, right, strict=True)) / lengths if lengths else 0.0


def to_json(
    arrivals: Sequence[Answer], summaries: Sequence[Summary], written: Sequence[StreamedAnswer]
) -> dict[str, Any]:
    """Return the report for ``--json``, without vectors."""
    return {
        "arrivals": [
            {
                "text": answer.text,
                "status": answer.prediction.status if answer.prediction else None,
                "problem": answer.problem,
                "latency_ms": answer.latency_ms,
                "metrics": dict(answer.prediction.metrics) if answer.prediction else {},
            }
            for answer in arrivals
        ],
        "batches": [asdict(batch) for batch in collect_batches(arrivals)],
        "strategies": [asdict(summary) for summary in summaries],
        "answers": [asdict(answer) for answer in written],
        "ok": is_right(arrivals, summaries) and all(answer.problem is None for answer in written),
    }


def is_right(arrivals: Iterable[Answer], summaries: Iterable[Summary]) -> bool:
    """Whether no request failed and no strategy changed an embedding."""
    return all(answer.problem is None for answer in arrivals) and all(summary.is_right for summary in summaries)


def _batch(id: str, places: list[int], answers: Sequence[Answer]) -> BatchSeen:
    prediction = answers[places[0]].prediction
    assert prediction is not None
    metrics = prediction.metrics
    return BatchSeen(
        id=id,
        places=tuple(places),
        size=int(metrics["batch_size"]),
        tokens=int(metrics.get("batch_tokens", 0)),
        padding_ratio=float(metrics.get("padding_ratio", 0.0)),
        compute_ms=float(metrics.get("compute_ms", 0.0)),
        worker=str(metrics.get("worker", "")),
    )


def _summary(run: Run, baseline: Run | None) -> Summary:
    batches = collect_batches(run.answers)
    tokens = sum(batch.tokens for batch in batches)
    failed = sum(answer.problem is not None for answer in run.answers)
    return Summary(
        strategy=run.strategy,
        requests=len(run.answers),
        failed=failed,
        batches=len(batches),
        mean_batch_size=sum(len(batch.places) for batch in batches) / len(batches) if batches else 0.0,
        padding_ratio=sum(batch.padding_ratio * batch.tokens for batch in batches) / tokens if tokens else 0.0,
        requests_per_s=(len(run.answers) - failed) / run.seconds,
        speedup=baseline.seconds / run.seconds if baseline else None,
        median_ms=sorted(answer.latency_ms for answer in run.answers)[len(run.answers) // 2],
        least_cosine=_least_cosine(run, baseline) if baseline else None,
    )


def _least_cosine(run: Run, baseline: Run) -> float | None:
    cosines = [
        cosine(ours.prediction.output["embedding"], theirs.prediction.output["embedding"])
        for ours, theirs in zip(run.answers, baseline.answers, strict=True)
        if ours.prediction and ours.prediction.output and theirs.prediction and theirs.prediction.output
    ]
    return min(cosines, default=None)
