"""A report as one self-contained HTML page: no scripts, no fonts, no network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from windrow.lab.report.charts import Panel, check_can_draw, draw_png, draw_svg
from windrow.lab.report.tables import TableRows

PAGE, PICTURE = "report.html", "report.png"
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h1 { font-size: 1.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: #fff; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; max-width: 40rem; } svg { display: block; width: 100%; height: auto; }
@media (max-width: 40rem) { body { margin: 1rem auto; } th, td { padding: .25rem .4rem; font-size: .875rem; } }
"""


def write_report(
    folder: Path,
    title: str,
    about: Mapping[str, object],
    tables: Sequence[TableRows],
    panels: Sequence[Panel],
) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.png`` into ``folder``; the first row of each table is its header.

    Raises `ValueError` if they cannot be written.
    """
    page, picture = folder / PAGE, folder / PICTURE
    text = render(title, about, tables, [draw_svg(panel) for panel in panels])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
        draw_png(panels, picture)
    except OSError as error:
        raise ValueError(f"--report {folder}: the report cannot be written: {error}") from None
    return page, picture


def check_report(folder: Path | None) -> None:
    """Raise `ValueError` if a report is requested and cannot be drawn or written; call it before a long measurement."""
    if folder is None:
        return
    check_can_draw()
    try:
        # Folders are created with the report, so the nearest existing parent must be writable.
        nearest = next(above for above in (folder, *folder.absolute().parents) if above.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(
            f"--report {folder}: takes a writable folder, or one that can be created: {error.strerror}"
        ) from None
    for taken in (folder / PAGE, folder / PICTURE):
        if taken.is_dir():
            raise ValueError(
                f"--report {folder}: {taken.name} in it is a folder; the report writes a file of that name"
            )


def render(title: str, about: Mapping[str, object], tables: Sequence[TableRows], drawings: Sequence[str]) -> str:
    """Return the HTML page; ``drawings`` are SVG elements."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>\n" for name, value in about.items())
    wide = "\n".join(f'<div class="wide">{_table(rows)}</div>' for rows in tables if rows)
    figures = "\n".join(f"<figure>{drawing}</figure>" for drawing in drawings)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<dl>\n{facts}</dl>\n"
        f'{wide}\n<div class="figures">\n{figures}\n</div>\n</body>\n</html>\n'
    )


def _table(rows: TableRows) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return "<table>\n" + "\n".join(lines) + "\n</table>"
