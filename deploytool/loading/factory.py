"""Finds the function behind `package.module:function` or `path/to/file.py:function`, and the files it is defined in."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from deploytool.errors import BadInput
from deploytool.loading import user_code
from deploytool.loading.user_code import ModuleLocation

ZOO = "deploytool.models"
_MOST = 4  # candidates that are named
_PACKAGE = Path(__file__).resolve().parents[1]


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
        raise BadInput(
            f"{where} has no function {name!r}", f"name one that returns the model: {suggest_references(where)}"
        )
    return found  # type: ignore[no-any-return]  # a checked callable of an untyped module


def source_files(reference: str) -> tuple[Path, ...]:
    """The files that define `reference`, found without importing them: its own and those it may import.

    Of a file these lie beside it and in its package, in packages beside it too; of a module they are its whole package.
    Raises BadInput if there is no such file or module.
    """
    where = reference.rpartition(":")[0]
    if is_zoo(reference):
        return tuple(path for path in sorted(zoo_folder().glob("*.py")) if path.name != "specs.py")
    place = _place(where)
    if place and where.endswith(".py"):
        folder, package = place.file.parent, place.package
        packages = [found.parent for found in folder.glob("*/__init__.py")] + ([package] if package else [])
        return tuple(sorted({*folder.glob("*.py"), *(path for each in packages for path in each.rglob("*.py"))}))
    if place:
        return tuple(sorted({place.file, *(place.package.rglob("*.py") if place.package else ())}))
    return _installed(where)


def project_folder(reference: str) -> Path | None:
    """The folder that the names of a model's files are relative to; None for a module that is installed."""
    if is_zoo(reference):
        return zoo_folder()
    place = _place(reference.rpartition(":")[0])
    return place.root if place else None


def module_name(reference: str) -> str:
    """What the module of a factory is called where it is imported."""
    where = reference.rpartition(":")[0]
    place = None if is_zoo(reference) else _place(where)
    return place.name if place else where


def _installed(where: str) -> tuple[Path, ...]:
    try:
        spec = importlib.util.find_spec(where) if where else None
        package = importlib.util.find_spec(where.partition(".")[0]) if spec else None
    except (ImportError, ValueError):  # ValueError: a module that was made by hand and has no spec
        spec = package = None
    if spec is None or spec.origin is None:
        raise BadInput(
            f"there is no module {where!r}",
            "check the spelling, run this in the project's folder, name that in PYTHONPATH, "
            "or give the path: path/to/file.py:function",
        )
    folders = package.submodule_search_locations or () if package else ()
    return tuple(sorted({Path(spec.origin), *(path for folder in folders for path in Path(folder).rglob("*.py"))}))


def _place(where: str) -> ModuleLocation | None:
    """Where a file or a module of the working folder lies; None for a module that is installed, or is none."""
    if where.endswith(".py"):
        return user_code.locate_file(_existing(where))
    try:
        return user_code.locate_module(where, Path.cwd())
    except OSError:  # the working folder is gone
        return None


def _existing(where: str) -> Path:
    if not Path(where).is_file():
        raise BadInput(f"there is no file {where}", "check the path: path/to/file.py:function")
    return Path(where).resolve()


def _module(where: str, reference: str) -> ModuleType:
    if not where:
        raise BadInput(f"{reference!r} names no module", "write package.module:function or path/to/file.py:function")
    if where.startswith(ZOO):
        mount_zoo()
        return importlib.import_module(where)
    place = _place(where)
    try:
        return user_code.load(place) if place else importlib.import_module(where)
    except ImportError as error:
        raise missing_module(reference, error) from error


def suggest_references(where: str) -> str:
    """The references to what a file's functions and classes make: `net.py:make or net.py:Net`."""
    names = candidates(Path(where)) if where.endswith(".py") else ()
    return " or ".join(f"{where}:{name}" for name in names or ("FACTORY",))


def candidates(file: Path) -> tuple[str, ...]:
    """The public functions and classes of a file that may make a model, read and not run; none if it cannot be read.

    Functions come first, then modules; where the file has classes derived from a `Module`, its other classes are left
    out.
    """
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    functions = [each.name for each in body if isinstance(each, ast.FunctionDef)]
    classes = [each for each in body if isinstance(each, ast.ClassDef)]
    modules = [each for each in classes if any(ast.unparse(base).endswith("Module") for base in each.bases)]
    names = (*functions, *(each.name for each in modules or classes))
    return tuple(name for name in names if not name.startswith("_"))[:_MOST]


def missing_module(reference: str, error: ImportError) -> BadInput:
    """What to say where the code of a model, or of what that imports, cannot be imported."""
    what = " ".join(str(error).split()) or "an import fails"
    remedy = "install what is missing; if it is your own, name the folder that holds it: PYTHONPATH=FOLDER deploytool …"
    return BadInput(f"{reference}: {what}", remedy)


def _load_file(name: str, path: Path, search: list[str]) -> None:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None  # a .py path always has one
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
