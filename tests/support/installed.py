"""The wheel, built from a copy of the checkout and installed into a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

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


def install(wheel: Path, folder: Path) -> Path:
    """Make an environment of ``wheel`` and of the packages that the tests run with; return its Python.

    A ``.pth`` file adds the packages. Files of that kind among them are not read, so the checkout, which is installed
    there as an editable package, cannot be imported.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", wheel], check=True)
    variables = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=variables))
    (packages / "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + os.linesep)
    return python


def run_installed(
    python: Path, *arguments: str, cwd: Path, timeout_s: float = 60.0, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the installed environment's Python in ``cwd``."""
    environment = clean_environ(PYTHONPATH="", **environ)
    return subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s
    )
