"""Plots, drawn with matplotlib: one PNG of all panels, or one SVG per panel. Needs the extra ``lab``."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windrow.lab.measure.figures import cumulative, latencies_s, series
from windrow.lab.simulate.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Line = tuple[Sequence[float], Sequence[float]]
#: Size of a panel in inches; its text is readable when it fills the width of a phone.
WIDTH, HEIGHT = 4.8, 3.5
#: A line with at most this many points has a marker on each.
FEW_POINTS = 20
#: Line styles alternate, and swap when the ten colours repeat, so that coinciding lines are both visible.
DASHES = ("-", "--")
#: An axis that spans fewer decades than this has labels between them.
NARROW = 100
#: Number of bars whose names fit side by side.
MANY_BARS = 5


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: named lines of ``(x, y)``, named points for single runs, or stacked bars.

    Lines are coloured by position, so lines with the same names in the same order have the same colours in all panels;
    a line may be empty. ``reference`` is drawn in grey for comparison. ``bars`` maps the name of each part to its value
    in every bar.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Line]
    points: Mapping[str, Line] = field(default_factory=dict)
    reference: Mapping[str, Line] = field(default_factory=dict)
    bars: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    is_log_x: bool = False
    is_log_y: bool = False

    def _repr_svg_(self) -> str:
        """Return an SVG for Jupyter."""
        return draw_svg(self)


def run_panels(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """Return the panels of simulated runs: latency distributions, and each run over time."""
    over_time = {name: series(outcome) for name, outcome in outcomes.items()}
    first = next(iter(over_time.values()))
    arrivals = {"arrivals": (first["at_s"], first["arrivals_per_s"])}
    served = _column(over_time, "served_per_s")
    return [
        distribution_panel({name: latencies_s(outcome) for name, outcome in outcomes.items()}),
        Panel("Requests served", "s", "requests/s", served, reference=arrivals),
        Panel("Waiting", "s", "requests", _column(over_time, "waiting")),
        Panel("Devices busy", "s", "share", _column(over_time, "busy")),
        Panel("p99 of finished requests", "s", "ms", _column(over_time, "p99_ms"), is_log_y=True),
    ]


def distribution_panel(latencies: Mapping[str, Any]) -> Panel:
    """Return a panel with cumulative latency distributions; latencies in seconds."""
    lines = {name: cumulative(values) if len(values) else ([], []) for name, values in latencies.items()}
    return Panel("Latency", "ms", "share of requests", lines, is_log_x=True)


def draw_png(panels: Sequence[Panel], path: Path) -> None:
    """Draw all panels into one PNG, two per row."""
    rows = -(-len(panels) // 2)
    figure = _figure(2 * WIDTH, rows * HEIGHT)
    for number, panel in enumerate(panels):
        _draw(panel, figure.add_subplot(rows, 2, number + 1))
    figure.savefig(path, format="png", dpi=150)


def draw_svg(panel: Panel) -> str:
    """Draw one panel as an ``<svg>`` element whose text stays text."""
    from matplotlib import rc_context

    figure = _figure(WIDTH, HEIGHT)
    _draw(panel, figure.add_subplot())
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(panel.title)}"', 1)


def check_can_draw() -> None:
    """Raise `ValueError` if matplotlib is not installed; call it before a long simulation."""
    if find_spec("matplotlib") is None:
        raise ValueError("--report needs matplotlib: pip install matplotlib (the extra 'lab' of windrow-inference)")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _draw(panel: Panel, axes: Axes) -> None:
    axes.set_axisbelow(True)
    for name, (x, y) in panel.reference.items():
        axes.plot(x, y, label=name, color="0.6", linewidth=1.2)
    for number, (name, (x, y)) in enumerate(panel.lines.items()):
        dash, marker = DASHES[(number + number // 10) % 2], "o" if len(x) <= FEW_POINTS else None
        axes.plot(x, y, label=name, linewidth=1.4, linestyle=dash, marker=marker, markersize=4)
    for name, (x, y) in panel.points.items():
        axes.plot(x, y, "o", label=name, markersize=4)
    _stack(panel.bars, axes)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    _scale(panel, axes)
    axes.grid(alpha=0.3)
    named = len(panel.lines) + len(panel.points) + len(panel.bars) + len(panel.reference)
    if named > 1 and panel.bars:
        axes.legend(fontsize="small")
    elif named > 1:  # below the plot, so that it hides no line
        axes.legend(
            fontsize="small", frameon=False, ncols=min(named, 4), loc="upper center", bbox_to_anchor=(0.5, -0.2)
        )


def _scale(panel: Panel, axes: Axes) -> None:
    """Set a logarithmic axis if requested and possible, else start at 0; integer ticks for integer values."""
    from matplotlib.ticker import MaxNLocator

    drawn = [*panel.lines.values(), *panel.points.values(), *panel.reference.values()]
    along, up = [value for x, _ in drawn for value in x], [value for _, y in drawn for value in y]
    if panel.is_log_x and any(value > 0 for value in along):
        axes.set_xscale("log")
        _name_ticks(axes.xaxis, along)
    elif along and all(float(value).is_integer() for value in along):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.is_log_y and any(value > 0 for value in up):
        axes.set_yscale("log", nonpositive="mask")
        _name_ticks(axes.yaxis, up)
    else:
        axes.set_ylim(bottom=0)


def _name_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Label ticks as ``10,000`` and ``0.1`` instead of powers of ten, with 2 and 5 between them on short axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def plain(value: float, _: float) -> str:
        return f"{value:,.0f}" if value >= 1 else f"{value:g}"

    over_0 = [value for value in values if value > 0]
    is_narrow = max(over_0) < NARROW * min(over_0)
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(FuncFormatter(plain) if is_narrow else NullFormatter())


def _stack(bars: Mapping[str, Mapping[str, float]], axes: Axes) -> None:
    reached: dict[str, float] = {}
    for part, values in bars.items():
        drawn = axes.bar(
            list(values), list(values.values()), bottom=[reached.get(bar, 0.0) for bar in values], label=part
        )
        if len(bars) == 1:
            axes.bar_label(drawn, fmt="%.1f", fontsize="small")
            axes.margins(y=0.12)
        reached = {bar: reached.get(bar, 0.0) + value for bar, value in values.items()}
    if len(reached) > MANY_BARS:
        axes.tick_params("x", labelrotation=45)


def _column(over_time: Mapping[str, Mapping[str, list[float]]], name: str) -> dict[str, Line]:
    """Return one line per run through its known values."""
    lines: dict[str, Line] = {}
    for run, one in over_time.items():
        known = [(at_s, value) for at_s, value in zip(one["at_s"], one[name], strict=True) if not math.isnan(value)]
        lines[run] = [at_s for at_s, _ in known], [value for _, value in known]
    return lines
