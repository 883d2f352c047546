"""Every file, module, link, command and option that the documentation names exists."""

import ast
import importlib.util
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main

from benchmarks.cli import app as benchmarks_app
from windrow.cli.app import app as windrow_app
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.tenant_settings import TenantSettings
from windrow.scheduler.queue.metrics import METRICS

ROOT = Path(__file__).parents[3]
DECISIONS = sorted((ROOT / "docs/adr").glob("*.md"))
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples/traces/README.md"]
PAGES = [*GUIDES, *DECISIONS, ROOT / "CHANGELOG.md"]
FOLDERS = "api|worker|scheduler|windrow|benchmarks|tests|docs|deploy|examples|requirements"
PROGRAMS = {"windrow": windrow_app, "python -m benchmarks": benchmarks_app}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def code(page: Path) -> list[str]:
    """Return the inline code and the lines of the code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```.*?\n(.*?)^ *```", text, re.M | re.S)
    indented = re.findall(r"^    (.+)$", prose(page), re.M)
    return [
        *re.findall(r"`([^`\n]+)`", prose(page)),
        *(line for block in blocks for line in block.splitlines()),
        *indented,
    ]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def expand(name: str) -> list[str]:
    """Expand ``{a,b}`` in a path into its alternatives."""
    if not (group := re.search(r"\{([^}]*)\}", name)):
        return [name]
    return [path for part in group[1].split(",") for path in expand(name[: group.start()] + part + name[group.end() :])]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_points_to_an_existing_file_and_heading(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", GUIDES, ids=page_id)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = {
        path
        for text in code(page)
        for found in re.findall(rf"(?<![\w./~-])(?:{FOLDERS})/[\w./{{}},*-]*[\w}}/]", text)
        for path in expand(found)
    }
    assert [path for path in sorted(named) if not any(ROOT.glob(path.rstrip("/")))] == []


def defined_names(module_file: Path) -> set[str]:
    """Return the names that a module defines or imports at its top level, and the methods of its classes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module_file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # lazily imported names are listed in a table of strings
    return names


def is_defined(dotted: str) -> bool:
    """Return whether a dotted name is a module or a name that a module defines."""
    module, parts = ROOT / dotted.split(".")[0], dotted.split(".")[1:]
    while parts and (module / parts[0]).is_dir():
        module, parts = module / parts[0], parts[1:]
    if parts and (module / f"{parts[0]}.py").is_file():
        module, parts = module / f"{parts[0]}.py", parts[1:]
    file = module if module.is_file() else module / "__init__.py"
    return file.is_file() and (not parts or parts[0] in defined_names(file))


@pytest.mark.parametrize("page", GUIDES, ids=page_id)
def test_every_dotted_name_that_a_page_names_exists(page: Path) -> None:
    celery_names = {"windrow.predict", "windrow.webhook", "windrow.housekeeping", "windrow.toml"}
    found = {
        name
        for text in code(page)
        for name in re.findall(r"(?<![\w./-])(?:windrow|benchmarks)(?:\.[A-Za-z_]\w*)+", text)
        if name not in celery_names and not name.endswith((".py", ".md"))
    }
    assert [name for name in sorted(found) if not is_defined(name)] == []


def test_an_unknown_dotted_name_is_detected() -> None:
    assert is_defined("windrow.errors.ClientError")
    assert is_defined("windrow.lab.report.charts.Panel")
    assert not is_defined("windrow.errors.NoSuchError")
    assert not is_defined("windrow.no_such_module")
    assert importlib.util.find_spec("windrow.worker.health") is not None


def unknown_words(program: str, line: str) -> list[str]:
    """Return the commands and options of a command line that the program does not have."""
    command: Any = typer.main.get_command(PROGRAMS[program])  # a group has `commands`
    words = re.split(r"\s#|[|>]\s", line)[0].removeprefix(program).split()
    unknown = []
    while hasattr(command, "commands") and words and re.match(r"[a-z]", words[0]):
        alternatives = words.pop(0).strip(",.:;").split("|")
        unknown += [name for name in alternatives if name not in command.commands]
        if len(alternatives) > 1 or unknown:
            return unknown
        command = command.commands[alternatives[0]]
    known = {
        "--help",
        *(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)),
    }
    return [word for word in words if re.match(r"--[a-z]", word) and word.split("=")[0] not in known]


@pytest.mark.parametrize("page", [*PAGES], ids=page_id)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    unknown = []
    for text in code(page):
        for program in PROGRAMS:
            for start in (found.start() for found in re.finditer(rf"(?<![\w/.-]){re.escape(program)} (?=[a-z])", text)):
                before = text[:start].split()
                if all(
                    word in ("$", "exec") or "=" in word or word.startswith(("taskset", "-c", "0-1")) for word in before
                ):
                    unknown += [(text, word) for word in unknown_words(program, text[start:])]
    assert unknown == []


def test_an_unknown_command_or_option_is_detected() -> None:
    assert unknown_words("windrow", "windrow bench compare --engine fixed") == []
    assert unknown_words("windrow", "windrow bench http") == ["http"]
    assert unknown_words("windrow", "windrow serve --nothing") == ["--nothing"]
    assert unknown_words("python -m benchmarks", "python -m benchmarks http --clients 64") == []


def test_every_function_on_the_architecture_page_is_defined_in_the_named_file() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w/.]+\.py)` \|", prose(ROOT / "docs/architecture.md"), re.M)
    assert len(rows) > 20
    missing = [(name, file) for name, file in rows if not has_member(ROOT / file, name.split("."))]
    assert missing == []


def has_member(file: Path, names: list[str]) -> bool:
    """Return whether a module defines this function, class or method."""
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    for name in names:
        found = [node for node in body if getattr(node, "name", None) == name]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def test_the_folder_diagram_lists_every_package_folder_and_only_existing_files() -> None:
    (drawing,) = re.findall(
        r"```\n(scheduler/.*?)```", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.S
    )
    parents: list[str] = []
    drawn: set[Path] = set()
    for line in drawing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for folder in re.findall(r"(\w+)/(?=[ ,])", line[:28]):
            parents[depth:] = [folder]
            drawn.add(ROOT.joinpath(*parents))
            drawn.update(ROOT.joinpath(*parents, name) for name in re.findall(r"(?<!\S)([\w/]+\.(?:py|lua))", line))
    assert [path for path in sorted(drawn) if not path.exists()] == []
    packages = {
        init.parent for top in ("scheduler", "worker", "api", "windrow") for init in (ROOT / top).rglob("__init__.py")
    }
    inside = (ROOT / "windrow/bench", ROOT / "scheduler/models/builtin")
    undrawn = [path for path in packages - drawn if not any(path.is_relative_to(folder) for folder in inside)]
    assert undrawn == []


@pytest.mark.parametrize("page", GUIDES, ids=page_id)
def test_every_script_and_metric_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    scripts = set(re.findall(r"\b(\w+\.lua)\b", text))
    assert scripts <= {path.name for path in (ROOT / "scheduler/queue/lua").rglob("*.lua")}
    metrics = set(re.findall(r"`(windrow_[a-z_]+)(?:\{[a-z_,]*\})?`", text))
    assert metrics <= {f"windrow_{metric.name}{ending}" for metric in METRICS for ending in ("", "_total")}


def test_every_setting_is_documented() -> None:
    text = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("settings.md", "upstream.md"))
    fields = {*Settings.model_fields, *ModelSettings.model_fields, *TenantSettings.model_fields}
    assert {
        name for name in fields - {"models", "tenants"} if not re.search(rf"^\| .*`{name}`.*? \|", text, re.M)
    } == set()


def test_every_extra_that_a_page_names_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {
        extra.strip()
        for page in PAGES
        for group in re.findall(r"(?:windrow-inference|'\.)\[([\w, ]+)\]", page.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert {"server", "worker", "celery", "all"} <= named <= set(extras)


def test_every_page_has_one_title_and_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        titles = re.findall(r"^# .+$", prose(page), re.M)
        assert len(titles) == 1, page
        assert f"(docs/{page.name})" in readme, page


def test_decision_records_have_unique_numbers_and_every_section() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == sorted(set(numbers))
    for page in DECISIONS:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. "), page
        parts = [text.find(part) for part in ("**Status.**", "**Decision.**", "**Why.**", "**Cost.**")]
        assert all(0 < first < second for first, second in pairwise(parts)), page
