"""The wheel, built from a copy of the checkout and installed into a virtual environment of its own."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from email import message_from_bytes
from importlib.metadata import Distribution, PackageNotFoundError
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.serving import ROOT, clean_environ

#: What a build needs of the checkout.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "api", "worker", "scheduler", "windrow")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
#: A module that fails a test when it is imported.
RAISES = "raise ImportError('the module of the working directory was imported')\n"


def copy_sources(folder: Path) -> Path:
    """Copy the sources, links included, so that a build leaves nothing in the checkout."""
    folder.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of ``source``, a folder or an sdist, without a network."""
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_sdist(source: Path, folder: Path) -> Path:
    """Build the source distribution of the folder ``source``."""
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def wheel_files(wheel: Path) -> set[str]:
    """Names of the files in ``wheel``."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def install(wheel: Path, folder: Path, extras: str | None = None) -> Path:
    """Make an environment of ``wheel`` and packages of the test environment; return its Python.

    If ``extras`` is None, a ``.pth`` file adds all packages of the tests. Python does not read ``.pth`` files among
    these, so the checkout, an editable package there, cannot be imported. Otherwise links add what pip would install
    for ``extras``, such as ``"server,worker"``; ``""`` is the base install.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", wheel], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    if extras is None:
        (packages / "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + os.linesep)
        return python
    distributions = required_distributions(wheel_requirements(wheel), extras.split(",") if extras else [""])
    for file in set(chain.from_iterable(map(top_level_files, distributions))):
        (packages / file.name).symlink_to(file)
    return python


def wheel_requirements(wheel: Path) -> list[str]:
    """The ``Requires-Dist`` lines of ``wheel``."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])


def required_distributions(requirements: list[str], extras: Iterable[str]) -> list[Distribution]:
    """Installed distributions that ``requirements`` of Windrow with ``extras`` bring, directly or not."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(requirements, extra) for extra in extras]
    while todo:
        texts, extra = todo.pop()
        for requirement in map(Requirement, texts):
            name = canonicalize_name(requirement.name)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            for wanted in requirement.extras or {""}:
                if (name, wanted) in seen:
                    continue
                seen.add((name, wanted))
                if name == "windrow-inference":
                    todo.append((requirements, wanted))
                    continue
                with suppress(PackageNotFoundError):  # what the tests run without, such as triton
                    found[name] = importlib.metadata.distribution(name)
                    todo.append((found[name].requires or [], wanted))
    return list(found.values())


def top_level_files(distribution: Distribution) -> set[Path]:
    """Folders and files that ``distribution`` has in site-packages itself."""
    names = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    return {Path(str(distribution.locate_file(name))) for name in names}


def run_installed(
    python: Path, *arguments: str, cwd: Path, timeout_s: float = 60.0, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the installed environment's Python in ``cwd``."""
    environment = clean_environ(PYTHONPATH="", **environ)
    return subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s
    )
