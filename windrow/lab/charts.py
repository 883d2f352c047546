"""Panels of lines, drawn by matplotlib: a PNG of all of them, or one SVG each. Needs the extra ``lab``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.lab.measure import cumulative, latencies_s, series
from scheduler.lab.simulation import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = tuple[Sequence[float], Sequence[float]]
#: Inches of one panel.
WIDTH, HEIGHT = 6.4, 3.6
#: Names of so many bars still fit side by side.
MANY_BARS = 5


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: lines by name, each ``(x, y)``, and points by name where single runs are shown; or bars.

    ``bars`` are the parts of stacked bars by name, each what it is of every bar.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Line]
    points: Mapping[str, Line] = field(default_factory=dict)
    bars: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    is_log_x: bool = False
    is_log_y: bool = False

    def _repr_svg_(self) -> str:
        """How Jupyter shows a panel that a cell ends with."""
        return draw_svg(self)


def run_panels(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """Latency distributions beside each other, and how each run went over time."""
    over_time = {name: series(outcome) for name, outcome in outcomes.items()}
    first = next(iter(over_time.values()))
    rates = {"arrivals": (first["at_s"], first["arrivals_per_s"])} | _column(over_time, "ends_per_s")
    return [
        distribution_panel({name: latencies_s(outcome) for name, outcome in outcomes.items()}),
        Panel("Requests a second", "s", "requests/s", rates),
        Panel("Waiting", "s", "requests", _column(over_time, "waiting")),
        Panel("Devices busy", "s", "share", _column(over_time, "busy")),
        Panel("p99 of those that end", "s", "ms", _column(over_time, "p99_ms"), is_log_y=True),
    ]


def distribution_panel(latencies: Mapping[str, Any]) -> Panel:
    """Cumulative distributions of latencies in seconds."""
    lines = {name: cumulative(values) for name, values in latencies.items() if len(values)}
    return Panel("Latency", "ms", "share of requests", lines, is_log_x=True)


def draw_png(panels: Sequence[Panel], path: Path) -> None:
    """All panels in one picture, two in a row."""
    rows = -(-len(panels) // 2)
    figure = _figure(2 * WIDTH, rows * HEIGHT)
    for number, panel in enumerate(panels):
        _draw(panel, figure.add_subplot(rows, 2, number + 1))
    figure.savefig(path, format="png", dpi=110)


def draw_svg(panel: Panel) -> str:
    """One panel as an ``<svg>`` element that keeps its text as text."""
    from matplotlib import rc_context

    figure = _figure(WIDTH, HEIGHT)
    _draw(panel, figure.add_subplot())
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def check_can_draw() -> None:
    """Raise `ValueError` where matplotlib is not installed: before anything was simulated, not after."""
    if find_spec("matplotlib") is None:
        raise ValueError(
            "--report draws with matplotlib, the extra 'lab' of windrow; to get it: pip install matplotlib"
        )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _draw(panel: Panel, axes: Axes) -> None:
    for name, (x, y) in panel.lines.items():
        axes.plot(x, y, label=name, linewidth=1.4)
    for name, (x, y) in panel.points.items():
        axes.plot(x, y, "o", label=name, markersize=4)
    _stack(panel.bars, axes)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.is_log_x:
        axes.set_xscale("log")
    if panel.is_log_y and any(value > 0 for _, y in (*panel.lines.values(), *panel.points.values()) for value in y):
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(panel.lines) + len(panel.points) + len(panel.bars) > 1:
        axes.legend(fontsize="small")


def _stack(bars: Mapping[str, Mapping[str, float]], axes: Axes) -> None:
    reached: dict[str, float] = {}
    for part, values in bars.items():
        axes.bar(list(values), list(values.values()), bottom=[reached.get(bar, 0.0) for bar in values], label=part)
        reached = {bar: reached.get(bar, 0.0) + value for bar, value in values.items()}
    if len(reached) > MANY_BARS:
        axes.tick_params("x", labelrotation=45)


def _column(over_time: Mapping[str, Mapping[str, list[float]]], name: str) -> dict[str, Line]:
    return {run: (one["at_s"], one[name]) for run, one in over_time.items()}
