"""Run the notebooks in examples/ cell by cell in this process, without a Jupyter kernel."""

import ast
import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_an_error(path: Path) -> None:
    asyncio.run(run_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_readme_names_every_notebook() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 4
    assert [path.name for path in NOTEBOOKS if f"(examples/{path.name})" not in readme] == []


async def run_cells(path: Path) -> None:
    """Run the cells of a notebook in one namespace, and render the value of each cell."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        try:
            shown = await run_cell(source, f"{path.name}:{cell['id']}", names)
            assert shown is None or shown._repr_svg_().startswith("<svg")
        except Exception as error:
            error.add_note(f"in cell {cell['id']} of {path.name}:\n{source}")
            raise


async def run_cell(source: str, name: str, names: dict[str, Any]) -> Any:
    """Run one cell, which may use ``await``; return the value of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    await evaluate(ast.Module(body, []), name, "exec", names)
    return await evaluate(ast.Expression(last.value), name, "eval", names) if last else None


async def evaluate(tree: ast.Module | ast.Expression, name: str, mode: str, names: dict[str, Any]) -> Any:
    code = compile(tree, name, mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    value = eval(code, names)
    return await value if code.co_flags & inspect.CO_COROUTINE else value
