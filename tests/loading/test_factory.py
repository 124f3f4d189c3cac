"""Tests of resolving references to factories and of finding their source files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.loading import factory


def test_a_file_and_a_function(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(size=1): return size * 2\n")
    assert factory.resolve(f"{tmp_path / 'net.py'}:make")(size=4) == 8


def test_a_module_and_a_function() -> None:
    assert factory.resolve("json:dumps")([1]) == "[1]"


def test_the_zoo_does_not_collide_with_a_package_named_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("mine = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "models", raising=False)
    factory.mount_zoo()
    assert __import__("models").mine
    assert callable(factory.resolve("deploytool.models.squeezenet:squeezenet"))
    del sys.modules["models"]  # other tests import packages of that name


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("json:nothing", "json has no function 'nothing'"),
        ("json:__name__", "json has no function '__name__'"),
        (":make", "':make' has no module"),
        ("make", "'make' has no module"),
    ],
)
def test_the_error_names_what_does_not_exist(reference: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        factory.resolve(reference)


def test_source_files_are_found_without_importing() -> None:
    assert factory.source_files("wave:open")[0].name == "wave.py"
    assert "wave" not in sys.modules
    with pytest.raises(BadInput, match=r"there is no file net\.py"):
        factory.source_files("net.py:make")
    zoo = {path.name for path in factory.source_files("deploytool.models.mixnet:mixnet")}
    assert {"mixnet.py", "layers.py"} <= zoo
    assert "specs.py" not in zoo
    with pytest.raises(BadInput, match="there is no module 'no_such_module'"):
        factory.source_files("no_such_module:make")


def test_other_files_in_the_folder_are_sources_and_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text("size = 3\n")
    (tmp_path / "net.py").write_text("from sibling import size\ndef make(): return size\n")
    assert {path.name for path in factory.source_files(f"{tmp_path / 'net.py'}:make")} == {"sibling.py", "net.py"}
    assert factory.resolve(f"{tmp_path / 'net.py'}:make")() == 3


def test_a_file_that_fails_is_not_left_in_sys_modules(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        factory.resolve(f"{tmp_path / 'broken.py'}:make")
    assert "deploytool_user_broken" not in sys.modules
