"""Finds the function behind `package.module:function` or `path/to/file.py:function`, and the files it is defined in."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from deploytool.errors import BadInput

ZOO = "deploytool.models"
_PACKAGE = Path(__file__).resolve().parent


def zoo_folder() -> Path:
    """The folder of our own model definitions: inside the wheel, beside the package in a checkout."""
    inside = _PACKAGE / "models"
    return inside if inside.is_dir() else _PACKAGE.parent / "models"


def mount_zoo() -> None:
    """Makes our `models/` importable as `deploytool.models`, so that a user's own `models` never collides with it."""
    if ZOO not in sys.modules:
        _load_file(ZOO, zoo_folder() / "__init__.py", search=[str(zoo_folder())])


def is_zoo(reference: str) -> bool:
    """Whether `reference` names a definition of our own."""
    return reference.startswith(f"{ZOO}.")


def resolve(reference: str) -> Callable[..., Any]:
    """The callable that `reference` names.

    Raises BadInput if the file, the module or the function does not exist.
    """
    where, _, name = reference.rpartition(":")
    module = _module(where, reference)
    found = getattr(module, name, None)
    if not callable(found):
        raise BadInput(f"{where} has no function {name!r}", f"name one that returns the model: {where}:FUNCTION")
    return found  # type: ignore[no-any-return]  # a checked callable of an untyped module


def sources(reference: str) -> tuple[Path, ...]:
    """The files that define `reference`, found without importing them: its own and those it may import.

    Of a file these lie beside it, in packages too; of a module they are its whole package. Raises BadInput if there
    is no such file or module.
    """
    where = reference.rpartition(":")[0]
    if where.endswith(".py"):
        folder = _existing(where).parent
        packages = [found.parent for found in folder.glob("*/__init__.py")]
        return tuple(sorted((*folder.glob("*.py"), *(path for package in packages for path in package.rglob("*.py")))))
    if is_zoo(reference):
        return tuple(path for path in sorted(zoo_folder().glob("*.py")) if path.name != "specs.py")
    try:
        spec = importlib.util.find_spec(where) if where else None
        package = importlib.util.find_spec(where.partition(".")[0]) if spec else None
    except (ImportError, ValueError):  # ValueError: a module that was made by hand and has no spec
        spec = package = None
    if spec is None or spec.origin is None:
        raise BadInput(
            f"there is no module {where!r}", "check the spelling, or give the path: path/to/file.py:function"
        )
    folders = package.submodule_search_locations or () if package else ()
    return tuple(sorted({Path(spec.origin), *(path for folder in folders for path in Path(folder).rglob("*.py"))}))


def _existing(where: str) -> Path:
    if not Path(where).is_file():
        raise BadInput(f"there is no file {where}", "check the path: path/to/file.py:function")
    return Path(where).resolve()


def _module(where: str, reference: str) -> ModuleType:
    if where.endswith(".py"):
        path = _existing(where)
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))  # the file may import what lies beside it
        return _load_file(f"deploytool_user_{path.stem}", path)
    if not where:
        raise BadInput(f"{reference!r} names no module", "write package.module:function or path/to/file.py:function")
    if where.startswith(ZOO):
        mount_zoo()
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise BadInput(f"{reference}: {error}", "check the spelling, or install it") from error


def _load_file(name: str, path: Path, search: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None  # a .py path always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
