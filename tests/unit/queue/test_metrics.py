"""The table of metrics is consistent, and its rows select the values of a model."""

from windrow.scheduler.queue.depth import Depth
from windrow.scheduler.queue.metrics import BUCKETS, METRICS, TIMES, Histogram, ModelState, Observed

DEPTH = Depth(
    waiting=2, running=1, workers=1, cost_tokens=0, token_s=None, payload_bytes=0, counts={"rejected_depth": 3}
)
OBSERVED = Observed(
    {"prompt": 9, "cached": 4, "completion": 5},
    {"size": 1, "tokens": 0, "wait": 2, "idle": 0},
    7,
    {name: Histogram(bounds, (0,) * (len(bounds) + 1), 0.0) for name, bounds in BUCKETS.items()},
)


def samples(name: str, *, generates: bool) -> dict[tuple[str, ...], object]:
    (metric,) = [metric for metric in METRICS if metric.name == name]
    return dict(metric.samples(ModelState(generates, DEPTH, OBSERVED, {})))


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_exactly_histograms_have_buckets_and_their_bounds_increase() -> None:
    for metric in METRICS:
        assert bool(metric.buckets) == bool(metric.observed) == (metric.type == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name
    assert set(TIMES) <= set(BUCKETS)


def test_every_sample_has_the_values_of_its_labels() -> None:
    for metric in METRICS:
        for generates in (False, True):
            for labels, _ in metric.samples(ModelState(generates, DEPTH, OBSERVED, {})):
                assert len(labels) == len(metric.labels), metric.name


def test_values_come_from_the_queue_and_the_observations() -> None:
    assert samples("requests_waiting", generates=False) == {(): 2}
    assert samples("rejections", generates=False)["depth",] == 3
    assert samples("batches", generates=False)["wait",] == 2


def test_models_that_generate_have_metrics_of_tokens_and_others_of_batches() -> None:
    assert samples("tokens", generates=False) == {("prompt",): 9}
    assert samples("tokens", generates=True) == {("prompt",): 9, ("cached",): 4, ("completion",): 5}
    for name in ("batches", "batch_size", "padding_ratio"):
        assert samples(name, generates=False)
        assert not samples(name, generates=True)
    for name in ("preemptions", "time_to_first_token_seconds"):
        assert samples(name, generates=True)
        assert not samples(name, generates=False)
