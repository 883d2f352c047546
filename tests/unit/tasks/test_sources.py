"""Model sources are found, and errors say what is missing."""

import json
from pathlib import Path

import pytest

import scheduler
from windrow.errors import ModelUnusable
from windrow.scheduler.models.sources import resolve_source


def test_a_folder_is_returned_unchanged(tmp_path: Path) -> None:
    assert resolve_source(str(tmp_path)) == tmp_path


def test_a_folder_inside_an_installed_package_is_found() -> None:
    assert resolve_source("package:scheduler/queue/lua").samefile(Path(scheduler.__file__).parent / "queue" / "lua")


def test_the_package_itself_can_be_the_folder() -> None:
    assert resolve_source("package:json").samefile(Path(json.__file__).parent)


@pytest.mark.parametrize(
    "module", ["no_such_package", "no_such_package.inside", "json.no_such_part", "sys", "", ".relative"]
)
def test_the_error_names_a_package_that_is_not_installed(module: str) -> None:
    with pytest.raises(ModelUnusable, match="no Python package") as raised:
        resolve_source(f"package:{module}/model")
    assert repr(module) in raised.value.detail


def test_the_error_names_a_folder_that_the_package_lacks() -> None:
    with pytest.raises(ModelUnusable, match="the package has no folder 'weights'"):
        resolve_source("package:json/weights")


@pytest.mark.parametrize("source", ["not a hub id!", "too/many/parts", "/no/such/folder"])
def test_the_error_for_any_other_source_lists_what_is_accepted(source: str) -> None:
    with pytest.raises(
        ModelUnusable, match="accepted are a folder, package:<module>/<folder>, builtin:<name> or a hub id"
    ):
        resolve_source(source)
