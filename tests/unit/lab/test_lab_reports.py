"""Reports of the laboratory: tables that fit a terminal, comparable charts, and responsive pages."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from windrow.lab.costs.cost import CostModel, PassCost
from windrow.lab.report.charts import Panel, distribution_panel, draw_svg, run_panels
from windrow.lab.report.page import write_report
from windrow.lab.report.tables import TableRows, answer_rows, flow_rows, run_rows, show, work_rows
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.outcome import Failure, Fleet, Outcome
from windrow.lab.simulate.simulation import simulate
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.planning import BatchLimits

LINE = PassCost(0.010, 0.001)
SPREAD = {"mean": 217_612.4, "p50": 110_392.1, "p90": 2e5, "p95": 209_128.3, "p99": 217_612.9, "max": 3e5}
REPORT = {
    "throughput_per_s": 12_345.6, "tokens_per_s": 1_234_567.8, "latency_ms": SPREAD, "queue_ms": SPREAD,
    "ttft_ms": SPREAD, "itl_ms": SPREAD, "goodput_per_s": 12_345.6, "within_slo": 0.99999, "utilisation": [1.0],
    "passes": 12_345_678, "mean_batch_size": 61.24, "padding_ratio": 0.751, "redelivered": 12_345, "failed": 1_234,
    "unserved": 12_345, "flows": {"tenant:normal": {"requests": 1_234_567, "latency_ms": SPREAD}},
}  # fmt: skip


def outcome(*failures: Failure) -> Outcome:
    policy = Policy("packed", BatchLimits(2, 1000), 0.005)
    fleet = Fleet(1, failures, max_attempts=1)
    return simulate(Workload([0.0, 0.01, 0.02], [10] * 3), policy, CostModel(LINE, LINE), fleet)


def printed(rows: TableRows, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show(console, "", rows)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("rows_of", [run_rows, answer_rows, work_rows, flow_rows])
def test_tables_with_large_figures_fit_80_columns_without_wrapping(rows_of: Any) -> None:
    rows = rows_of(dict.fromkeys(("continuous", "chunked"), REPORT))
    lines = printed(rows)
    assert [line.split()[0] for line in lines] == ["run", "continuous", "chunked"]
    for line, row in zip(lines, rows, strict=True):
        assert line.split() == " ".join(row).split()


def test_names_are_never_wrapped_and_a_title_may_be_wider_than_its_table() -> None:
    console = Console(file=io.StringIO(), width=40)
    show(console, "A title that is longer than the table", [["run", "x"], ["continuous", "1" * 60]])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "A title that is longer than the table\n" in text
    assert "continuous" in text


def test_a_missing_figure_is_shown_as_a_dash() -> None:
    report = REPORT | {"throughput_per_s": None, "tokens_per_s": None, "goodput_per_s": None, "latency_ms": None}
    assert run_rows({"packed": report})[1][1:4] == ["-", "-", "-"]
    assert answer_rows({"packed": report})[1][-2] == "-"


def test_a_run_has_the_same_position_and_colour_in_every_panel_even_without_data() -> None:
    panels = run_panels({"dead": outcome(Failure(0.006, 0, 1.0), Failure(1.5, 0, 1.0)), "healthy": outcome()})
    assert [list(panel.lines) for panel in panels] == [["dead", "healthy"]] * len(panels)
    assert [list(panel.reference) for panel in panels if panel.reference] == [["arrivals"]]
    empty = distribution_panel({"nothing": [], "something": [0.1, 0.2]})
    assert empty.lines["nothing"] == ([], [])


def test_lines_differ_in_colour_or_dashes() -> None:
    panel = Panel("Many", "x", "y", {str(number): ([0.0, 1.0], [number, number]) for number in range(14)})
    legend = draw_svg(panel).split('id="legend_1"')[1]
    styles = re.findall(r"fill: none;([^\"]*)\"", legend)
    drawn = [(re.search("stroke: (#[0-9a-f]+)", style), "dasharray" in style) for style in styles]
    distinct = {(colour[1], is_dashed) for colour, is_dashed in drawn if colour is not None}
    assert len(distinct) == 14


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ({"": ([12.0, 60.0], [0.0, 1.0])}, {"20", "50"}),
        ({"": ([5.0, 200_000.0], [0.0, 1.0])}, {"10", "100", "1,000", "10,000", "100,000"}),
    ],
)
def test_logarithmic_axes_are_labelled_with_numbers_instead_of_powers(lines: Any, labels: set[str]) -> None:
    drawing = draw_svg(Panel("", "x", "y", lines, is_log_x=True))
    texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", drawing))
    assert labels <= texts
    assert "mathdefault" not in drawing


def test_an_axis_of_whole_numbers_has_only_whole_labels() -> None:
    drawing = draw_svg(Panel("", "devices", "y", {"": ([4.0, 5.0], [0.0, 1.0])})).split('id="matplotlib.axis_2"')[0]
    assert set(re.findall(r"<text[^>]*>([^<]*)</text>", drawing)) == {"4", "5", "devices"}


def test_a_page_fits_narrow_screens_and_labels_its_pictures(tmp_path: Path) -> None:
    panels = [Panel("A < B", "x", "y", {"a": ([0.0], [1.0])}), Panel("C", "x", "y", {}, bars={"": {"b": 1.0}})]
    page, picture = write_report(tmp_path / "deep/er", "T & T", {"of": "<b>"}, [[["run"], ["<i>"]]], panels)
    text = page.read_text()
    assert picture.is_file()
    assert text.count("<figure>") == 2
    assert 'aria-label="A &lt; B"' in text
    assert "T &amp; T" in text
    assert "<i>" not in text
    assert "@media (max-width" in text
    assert re.search(r"\.wide \{ overflow-x: auto", text)


def test_a_report_that_cannot_be_written_raises_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ValueError, match="the report cannot be written"):
        write_report(tmp_path, "", {}, [], [Panel("C", "x", "y", {"a": ([0.0], [1.0])})])
