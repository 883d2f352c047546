"""Random workloads, traces in published formats, and the errors of invalid ones."""

import math
from pathlib import Path

import numpy as np
import pytest

from windrow.lab.simulate.traces import read_trace
from windrow.lab.simulate.workload import PATTERNS, Flow, Workload, draw_arrivals, draw_flows, draw_lengths

SAMPLES = Path(__file__).parents[3] / "examples/traces"
COUNT, RATE_PER_S = 50_000, 100.0


def arrivals(pattern: str) -> np.ndarray:
    return np.array(draw_arrivals(PATTERNS[pattern], RATE_PER_S, COUNT, np.random.default_rng(5)))


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_every_pattern_has_the_requested_mean_rate(pattern: str) -> None:
    at_s = arrivals(pattern)
    assert len(at_s) == COUNT
    assert (np.diff(at_s) >= 0).all()
    assert at_s[0] >= 0
    assert at_s[-1] == pytest.approx(COUNT / RATE_PER_S, rel=0.01)


def test_gaps_of_a_poisson_process_are_exponential() -> None:
    gaps_s = np.diff(arrivals("poisson"))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, abs=0.03)
    assert (gaps_s > 1 / RATE_PER_S).mean() == pytest.approx(math.exp(-1), abs=0.01)


def test_the_patterns_bursts_ramp_and_diurnal_have_their_shapes() -> None:
    share = {name: np.histogram(arrivals(name) / 500.0, bins=10, range=(0, 1))[0] / COUNT for name in PATTERNS}
    assert share["ramp"][-1] > 5 * share["ramp"][0]
    assert share["diurnal"][4:6].min() > 5 * share["diurnal"][[0, -1]].max()
    within = (arrivals("bursts") / 500.0 * 10) % 1.0
    assert (within < 0.1).mean() == pytest.approx(8 * 0.1 / (8 * 0.1 + 0.9), abs=0.02)


def test_the_same_seed_draws_the_same_workload() -> None:
    assert (arrivals("bursts") == arrivals("bursts")).all()


def test_lengths_are_lognormal_up_to_the_maximum() -> None:
    lengths = np.array(draw_lengths(50, 0.9, 256, COUNT, np.random.default_rng(1)))
    assert np.median(lengths) == pytest.approx(50, abs=1)
    assert lengths.min() >= 1
    assert lengths.max() == 256
    assert np.percentile(lengths, 84.1) == pytest.approx(50 * math.exp(0.9), rel=0.03)


def test_flows_send_requests_in_proportion_to_their_shares() -> None:
    flow = draw_flows([Flow("a", share=3), Flow("b", share=1)], COUNT, np.random.default_rng(1))
    assert np.mean(flow) == pytest.approx(0.25, abs=0.01)
    assert draw_flows([Flow()], COUNT, np.random.default_rng(1)) == []


def test_at_rate_scales_the_gaps() -> None:
    workload = Workload([1.0, 2.0, 4.0], [1, 1, 1])
    assert workload.rate_per_s == pytest.approx(2 / 3)
    assert workload.at_rate(2.0).arrival_s == pytest.approx([0.0, 1 / 3, 1.0])


@pytest.mark.parametrize(
    ("arrival_s", "tokens", "message"),
    [
        ([], [], "no requests"),
        ([0.0, -1.0], [1, 1], "request 2 arrives at -1.0"),
        ([0.0, math.nan], [1, 1], "request 2 arrives at nan"),
        ([0.0, math.inf], [1, 1], "request 2 arrives at inf"),
        ([1.0, 0.5], [1, 1], "request 2 arrives at 0.5, before the previous one"),
        ([0.0, 1e300], [1, 1], r"request 2 arrives at 1e\+300; arrivals are seconds from 0 to 4e\+09"),
        ([0.0], [0], "request 1 has 0 tokens"),
        ([0.0], [10**10], r"request 1 has 10000000000 tokens; accepted are 1 to 1e\+09"),
        ([0.0], [1, 2], "differ in length"),
    ],
)
def test_an_invalid_workload_raises_an_error(arrival_s: list[float], tokens: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(arrival_s, tokens)


def test_two_flows_of_the_same_name_raise_an_error() -> None:
    with pytest.raises(ValueError, match="the flows are a:normal, a:normal; each tenant and priority may appear once"):
        Workload([0.0], [1], flow=[0], flows=(Flow("a"), Flow("a", share=2)))


def test_shares_may_be_very_large_numbers() -> None:
    drawn = draw_flows([Flow("a", share=1e308), Flow("b", share=1e308)], COUNT, np.random.default_rng(1))
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("name", "requests", "first"),
    [("azure_llm.csv", 40, (44, 25)), ("burstgpt.csv", 38, (281, 23)), ("mooncake.jsonl", 40, (12624, 60)),
     ("vidur.csv", 40, (2461, 234))],
)  # fmt: skip
def test_each_published_format_can_be_read(name: str, requests: int, first: tuple[int, int]) -> None:
    workload = read_trace(SAMPLES / name)
    assert len(workload) == requests
    assert (workload.arrival_s[0], workload.tokens[0], workload.output_tokens[0]) == (0.0, *first)
    assert 1.5 < workload.rate_per_s < 2.6
    assert len(read_trace(SAMPLES / name, limit=5)) == 5


VIDUR, AZURE = "arrived_at,num_prefill_tokens,num_decode_tokens\n", "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: unknown trace format"),
        ("a,b,c\n1,2,3\n", "line 1: unknown trace format; accepted formats are azure, burstgpt"),
        (VIDUR, "the trace has no requests"),
        (
            VIDUR + "0.5,10,3\n1.0,x,3\n",
            r"line 3: num_prefill_tokens is 'x'; it must be a whole number of tokens from 1",
        ),
        (VIDUR + "0.5,10\n", "line 2: column num_decode_tokens is missing"),
        (VIDUR + "0.5,10,3\n0.4,10,3\n", "line 3: it arrives before the previous line"),
        (VIDUR + "-1,10,3\n", "line 2: arrived_at is '-1'; it must be a time of 0 or more"),
        (VIDUR + "soon,10,3\n", "line 2: arrived_at is 'soon'; it must be a time"),
        (VIDUR + "1,10,\n", "line 2: num_decode_tokens is ''; it must be a whole number"),
        (VIDUR + "1,1e300,3\n", r"line 2: num_prefill_tokens is '1e300'; it must be .* from 1 to 1e\+09"),
        (VIDUR + "nan,10,3\n", "line 2: arrived_at is 'nan'"),
        (VIDUR + "1,2.5,3\n", "line 2: num_prefill_tokens is '2.5'; it must be a whole number"),
        (VIDUR + "1,-2,3\n", "line 2: num_prefill_tokens is '-2'"),
        (VIDUR + "1,inf,3\n", "line 2"),
        (VIDUR + "1,5,3\n\n2,0,3\n", "line 4: num_prefill_tokens is '0'"),
        (AZURE + "yesterday,10,3\n", "line 2: TIMESTAMP is 'yesterday'; it must be a date"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 2}\nnonsense\n', "line 2: not JSON"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 2}\n[1]\n', "line 2: takes one JSON object"),
        ('{"timestamp": 1, "input_length": null, "output_length": 2}\n', "line 1: input_length is None; it must be"),
        ("{]\n", "line 1: not JSON"),
    ],
)
def test_a_malformed_trace_raises_an_error_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trace(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\x01\xd0\x00", "not text in UTF-8; accepted formats are azure, burstgpt"),
        (VIDUR.encode() + b"0.5,10,3\n\xff\xfe,10,3\n", "not text in UTF-8"),
        (VIDUR.encode() + b'"' + b"1" * 200_000, "not a trace: field larger"),
    ],
)
def test_a_file_that_is_not_text_raises_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "trace"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_trace(file)
