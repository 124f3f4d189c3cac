"""Tests of importing user code from its project folder without shadowing installed libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.loading import catalog, factory, user_code
from deploytool.spec import Tensor

IMAGE = (Tensor("input", ("batch", 3, 8, 8)),)


@pytest.fixture(autouse=True)
def restore_import_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield
    user_code.unload()
    for name, module in list(sys.modules.items()):
        if name not in before and str(tmp_path) in str(
            getattr(module, "__file__", "") or getattr(module, "__path__", "")
        ):
            del sys.modules[name]


def project(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


PARTS, MAKE = "SIZE = 3\n", "def make(): return SIZE\n"
LATE = "def make():\n    from .parts import SIZE\n    return SIZE\n"


def package(folder: str, line: str = "", net: str = "", name: str = "net.py") -> dict[str, str]:
    """The files of a package with a model and a module that the model imports."""
    return {f"{folder}/__init__.py": "", f"{folder}/parts.py": PARTS, f"{folder}/{name}": net or f"{line}\n{MAKE}"}


def folder(name: str, line: str) -> dict[str, str]:
    """The files of a folder without __init__.py, with a model and a module that the model imports."""
    return {f"{name}/parts.py": PARTS, f"{name}/net.py": f"{line}\n{MAKE}"}


FROM, RELATIVE, SIBLING = "from models.parts import SIZE", "from .parts import SIZE", "from parts import SIZE"
LAYOUTS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "a package, imported by its name": (package("models", FROM), "models.net:make"),
    "a package, by its file": (package("models", FROM), "models/net.py:make"),
    "a relative import, by its name": (package("models", RELATIVE), "models.net:make"),
    "a relative import, by its file": (package("models", RELATIVE), "models/net.py:make"),
    "a package in a package": (
        {"a/__init__.py": PARTS, "a/b/__init__.py": "", "a/b/net.py": f"from .. import SIZE\n{MAKE}"},
        "a/b/net.py:make",
    ),
    "a namespace package, by its file": (folder("models", FROM), "models/net.py:make"),
    "a namespace package, by its name": (folder("models", FROM), "models.net:make"),
    "a relative import in a namespace package": (folder("models", RELATIVE), "models/net.py:make"),
    "the src layout, by its file": (package("src/pkg", "from pkg.parts import SIZE"), "src/pkg/net.py:make"),
    "the src layout, by its name": (package("src/pkg", RELATIVE), "pkg.net:make"),
    "the package itself": (package("pkg", RELATIVE, name="__init__.py"), "pkg:make"),
    "a package by the path of its __init__": (package("pkg", RELATIVE, name="__init__.py"), "pkg/__init__.py:make"),
    "a sibling file": ({"parts.py": PARTS, "net.py": f"{SIBLING}\n{MAKE}"}, "net.py:make"),
    "a sibling file in a package": (package("pkg", SIBLING), "pkg/net.py:make"),
    "a parent folder": (
        {"common/parts.py": PARTS, "nets/a/net.py": f"from common.parts import SIZE\n{MAKE}"},
        "nets/a/net.py:make",
    ),
    "a package named like this tool": (package("deploytool", SIBLING), "deploytool/net.py:make"),
    "a package named like one of Python's": (package("types", SIBLING), "types/net.py:make"),
    "a module named like one of Python's": ({"json.py": f"{PARTS}{MAKE}"}, "json:make"),
    "a file named like one of Python's": ({"types.py": f"{PARTS}{MAKE}"}, "types.py:make"),
    "an import inside the factory": (package("models", net=LATE), "models/net.py:make"),
}
NAMES = (
    "my net.py",
    "réseau.py",
    "net.v2.py",
    "3net.py",
    'it\'s "one".py',
    "🦊.py",
    f"{'n' * 240}.py",
    "class.py",
    "%s {}.py",
)


@pytest.mark.integration
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_factory_is_found_in_every_layout(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, reference = LAYOUTS[layout]
    monkeypatch.chdir(project(tmp_path, files))
    assert factory.resolve(reference)() == 3
    assert {path.name for path in factory.source_files(reference)} >= {
        Path(name).name for name in files if "common" not in name
    }


@pytest.mark.parametrize("mark", ["pyproject.toml", "setup.py", ".git"])
def test_a_marker_file_identifies_the_project_from_another_directory(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {mark: "", "nets/parts.py": "SIZE = 3\n", "nets/net.py": f"from nets.parts import SIZE\n{MAKE}"}
    project(tmp_path / "there", files)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert factory.resolve(f"{tmp_path}/there/nets/net.py:make")() == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("class Net: pass\ndef make(): return Net\n")
    module = factory.resolve(f"{tmp_path / name}:make")().__module__
    assert module.isidentifier()
    assert module.isascii()
    assert len(module) < 80
    folder = catalog.find(f"{tmp_path / name}:make", IMAGE).name
    (tmp_path / "artifacts" / folder).mkdir(parents=True)


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"net\xff.py")
    (tmp_path / name).write_text("def make(): return 3\n")
    with pytest.raises(BadInput, match="UTF-8"):
        catalog.find(f"{tmp_path / name}:make", IMAGE)


def test_two_files_of_the_same_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        project(tmp_path, {f"{folder}/net.py": f"class Net: place = {folder!r}\ndef make(): return Net\n"})
    first, second = (factory.resolve(f"{tmp_path / folder}/net.py:make")() for folder in ("a", "b"))
    assert (first.place, second.place) == ("a", "b")
    assert first.__module__ != second.__module__
    assert sys.modules[first.__module__].make() is not second


def test_two_packages_of_the_same_name_are_both_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, place in enumerate(("a", "b")):
        files = {**package("pkg", "from pkg.parts import SIZE"), "pkg/parts.py": f"SIZE = {number}\n"}
        monkeypatch.chdir(project(tmp_path / place, files))
        assert factory.resolve("pkg.net:make")() == number


def test_an_imported_package_of_the_same_name_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path / "mine", {"pkg/__init__.py": "", "pkg/net.py": f"SIZE = 1\n{MAKE}"})
    project(tmp_path / "theirs", {"pkg/__init__.py": "theirs = True\n"})
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    import pkg  # type: ignore[import-not-found]  # made just now

    assert factory.resolve(f"{tmp_path}/mine/pkg/net.py:make")() == 1
    assert sys.modules["pkg"] is pkg
    assert pkg.theirs


@pytest.mark.parametrize("name", ["types", "json", "random", "onnx", "numpy", "torch", "queue"])
def test_a_sibling_file_does_not_shadow_a_library(name: str, tmp_path: Path) -> None:
    net = f"import {name}\ndef make(): return {name}\n"
    project(tmp_path, {f"{name}.py": "raise RuntimeError('not me')\n", "net.py": net})
    sys.modules.pop("queue", None)
    assert not factory.resolve(f"{tmp_path}/net.py:make")().__file__.startswith(str(tmp_path))


def test_a_data_folder_does_not_shadow_a_library(tmp_path: Path) -> None:
    net = "import typing_extensions\ndef make(): return typing_extensions\n"
    project(tmp_path, {"typing_extensions/x.txt": "", "net.py": net})
    sys.modules.pop("typing_extensions", None)
    assert hasattr(factory.resolve(f"{tmp_path}/net.py:make")(), "deprecated")


def test_user_modules_shadow_libraries_only_for_user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = project(tmp_path / "lib" / "site-packages", {"common_parts.py": "SIZE = 'theirs'\n"})
    monkeypatch.syspath_prepend(library)
    project(
        tmp_path / "mine", {"common_parts.py": "SIZE = 'mine'\n", "net.py": f"from common_parts import SIZE\n{MAKE}"}
    )
    assert factory.resolve(f"{tmp_path}/mine/net.py:make")() == "mine"
    user_code.unload()
    sys.modules.pop("common_parts", None)
    assert __import__("common_parts").SIZE == "theirs"


def test_an_edited_file_is_imported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"pkg/__init__.py": "", "pkg/parts.py": "SIZE = 3\n", "pkg/net.py": f"from .parts import SIZE\n{MAKE}"}
    monkeypatch.chdir(project(tmp_path, files))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert factory.resolve("pkg.net:make")() == 3
    (tmp_path / "pkg" / "parts.py").write_text("SIZE = 44\n")
    assert factory.resolve("pkg.net:make")() == 44


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import no_such_thing\n", "No module named 'no_such_thing'"),
        ("from parts import nothing\n", "cannot import name 'nothing' from 'parts'"),
        ("from nets.parts import SIZE\n", "No module named 'nets'"),
        ("from ....far import SIZE\n", "relative import"),
        ("raise ImportError('of\\nits own')\n", "of its own"),
    ],
)
def test_a_failed_import_is_one_line_with_a_remedy(text: str, problem: str, tmp_path: Path) -> None:
    project(tmp_path, {"parts.py": "", "net.py": text})
    with pytest.raises(BadInput, match=problem) as caught:
        factory.resolve(f"{tmp_path}/net.py:make")
    assert "PYTHONPATH" in caught.value.remedy
    assert len(str(caught.value).splitlines()) == 1


def test_no_user_folder_is_added_to_sys_path(tmp_path: Path) -> None:
    before, shadowing = list(sys.path), "raise RuntimeError('imported instead of a library')\n"
    project(tmp_path, {"parts.py": PARTS, "pynvml.py": shadowing, "net.py": f"{SIBLING}\n{MAKE}"})
    factory.resolve(f"{tmp_path}/net.py:make")
    assert sys.path == before
    with pytest.raises(ImportError):
        __import__("no_such_library_pynvml")
    assert user_code._ProjectFinder.find_spec("pynvml") is None


def test_imports_of_a_library_on_behalf_of_user_code_search_user_folders_last(tmp_path: Path) -> None:
    late = MAKE.replace("SIZE", "pickle.loads(pickled)")
    net = f"import pickle, parts\npickled = pickle.dumps(parts.Size)\ndel parts\n{late}"
    project(tmp_path, {"parts.py": "class Size: pass\n", "net.py": net})
    made = factory.resolve(f"{tmp_path}/net.py:make")
    del sys.modules["parts"]
    assert made().__name__ == "Size"
