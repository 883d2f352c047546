"""The output of the commands and of the demonstration."""

import io
import math
from typing import Any

import pytest
from rich.console import Console

from windrow.cli.output import abbreviate, describe_metrics
from windrow.client.prediction import Prediction
from windrow.demo import report, show
from windrow.demo.scenes import Answer, Run
from windrow.lab.sample_texts import MOST_WORDS, mixed_texts


def answer(batch: str, size: int, *, tokens: int = 100, padding: float = 0.0, vector: Any = (1.0, 0.0)) -> Answer:
    metrics = {
        "queue_ms": 1.0, "batch_wait_ms": 2.0, "compute_ms": 3.0, "total_ms": 6.0, "batch_id": batch,
        "batch_size": size, "batch_tokens": tokens, "padding_ratio": padding, "worker": "w",
    }  # fmt: skip
    output = {"embedding": list(vector)}
    return Answer("a text", Prediction("p", "m", "succeeded", output=output, metrics=metrics), None, 7.0)


LOST = Answer("a text", None, "connection lost", 9.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"embedding": [0.1, 0.2, 0.3, 0.4, 0.5]}, '{"embedding": [0.1000, 0.2000, 0.3000, 0.4000, ... 5 in total]}'),
        ([1, 2], "[1, 2]"),
        ("é", '"é"'),
        (None, "null"),
    ],
)
def test_long_lists_are_abbreviated(value: object, text: str) -> None:
    assert abbreviate(value) == text


def test_metrics_have_units() -> None:
    metrics = {"queue_ms": 1.256, "total_ms": 1234.5, "batch_size": 4}
    assert describe_metrics(metrics) == "queue 1.26 ms, total 1234 ms, batch_size 4"


def test_answers_are_grouped_by_batch() -> None:
    batches = report.collect_batches([answer("b1", 2), answer("b2", 1), answer("b1", 2), LOST])
    assert [(batch.id, batch.places, batch.size) for batch in batches] == [("b1", (0, 2), 2), ("b2", (1,), 1)]


def test_a_summary_weights_padding_by_tokens_and_compares_with_no_batching() -> None:
    alone = Run("none", [answer("a", 1), answer("b", 1)], seconds=4.0)
    padded = Run("dynamic", [answer("c", 1, tokens=300, padding=0.5), answer("d", 1, tokens=100)], seconds=1.0)
    first, second = report.summarise([alone, padded])
    assert (first.speedup, second.speedup) == (1.0, 4.0)
    assert second.padding_ratio == pytest.approx((300 * 0.5 + 0) / 400)
    assert second.requests_per_s == 2.0
    assert second.least_cosine == pytest.approx(1.0)
    assert report.is_right([answer("a", 1)], [first, second])


def test_a_different_embedding_or_a_failed_request_fails_the_report() -> None:
    alone = Run("none", [answer("a", 1)], seconds=1.0)
    turned = report.summarise([alone, Run("packed", [answer("a", 1, vector=(0.0, 1.0))], seconds=1.0)])
    lost = report.summarise([alone, Run("packed", [LOST], seconds=1.0)])
    assert not report.is_right([], turned)
    assert not report.is_right([], lost)
    assert not report.is_right([LOST], [])


def test_cosine_of_two_vectors() -> None:
    assert report.cosine([1, 0], [1, 1]) == pytest.approx(math.sqrt(0.5))
    assert report.cosine([0, 0], [1, 1]) == 0.0


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_tables_fit_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    answers = [answer("b1", 2), answer("b1", 2), LOST]
    show.show_arrivals(console, answers, report.collect_batches(answers))
    show.show_summary(console, report.summarise([Run("none", answers, 1.0), Run("packed", answers, 0.5)]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "packed" in text


def test_sample_texts_are_reproducible_and_of_mixed_length() -> None:
    texts = mixed_texts(300)
    lengths = sorted(len(text.split()) for text in texts)
    assert texts == mixed_texts(300)
    assert lengths[0] >= 3
    assert lengths[-1] <= MOST_WORDS
    assert lengths[-1] > 5 * lengths[150]
