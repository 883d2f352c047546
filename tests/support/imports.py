"""Which modules import which, read from the sources without running them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules_of(package: str) -> list[str]:
    """Names of the modules of ``package``, or of the one module of this name."""
    folder = ROOT / package.replace(".", "/")
    if not folder.is_dir():
        return [package]
    files = (file.relative_to(ROOT).with_suffix("") for file in folder.rglob("*.py"))
    return [".".join(file.parts).removesuffix(".__init__") for file in files]


def third_party_imports(modules: Iterable[str]) -> dict[str, str]:
    """Top-level packages that are imported by ``modules`` and by the modules that these import, with one importer each.

    Of ``modules`` themselves imports inside functions count too.
    """
    found: dict[str, str] = {}
    entries = set(modules)
    todo, seen = list(entries), set()
    while todo:
        module = todo.pop()
        file = _file_of(module)
        if module in seen or file is None:
            continue
        seen.add(module)
        todo += _parents(module)
        for name in _imported(ast.parse(file.read_text()), inside_functions=module in entries):
            top_level = name.partition(".")[0]
            if top_level == "windrow":
                todo.append(name)
            elif top_level not in sys.stdlib_module_names:
                found[top_level] = module
    return found


def _file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imported(tree: ast.AST, *, inside_functions: bool) -> Iterator[str]:
    """Names in import statements, without those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _imported(node, inside_functions=inside_functions)
