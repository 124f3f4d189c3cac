"""Resolves a reference to its callable, and lists its source files.

A reference is `package.module:function`, `path/to/file.py:function`, or names a model of a hub: `hf:NAME`, `timm:NAME`.
That of a given ONNX file is its path, and its source files are itself and the files of its external data.
"""

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
from deploytool.loading.hub import doors
from deploytool.loading.user_code import ModuleLocation
from deploytool.spec import SourceKind

ZOO = "deploytool.models"
_GRAPH_SUFFIX = ".onnx"
_GRAPH_FILES = "deploytool.rewrites.graph.storage"  # imports onnx
_MAX_SUGGESTIONS = 4
_PACKAGE = Path(__file__).resolve().parents[1]


def zoo_folder() -> Path:
    """The folder of the zoo's model definitions: inside the wheel, next to the package in a checkout."""
    installed = _PACKAGE / "models"
    return installed if installed.is_dir() else _PACKAGE.parent / "models"


def mount_zoo() -> None:
    """Imports the zoo as `deploytool.models`, so that it never collides with a package `models` of the user."""
    if ZOO not in sys.modules:
        _load_file(ZOO, zoo_folder() / "__init__.py", search=[str(zoo_folder())])


def kind(reference: str) -> SourceKind:
    """What a reference names."""
    if reference.lower().endswith(_GRAPH_SUFFIX):
        return SourceKind.GRAPH
    return SourceKind.ZOO if reference.startswith(f"{ZOO}.") else SourceKind.CODE


def is_zoo(reference: str) -> bool:
    """Whether `reference` names a definition of the zoo."""
    return kind(reference) is SourceKind.ZOO


def resolve(reference: str) -> Callable[..., Any]:
    """Imports the module of `reference` and returns its callable.

    Raises BadInput if the file, the module or the function does not exist.
    """
    if doors.is_hub(reference):
        return doors.factory(reference)
    path_or_module, _, name = reference.rpartition(":")
    module = _import_module(path_or_module, reference)
    function = getattr(module, name, None)
    if not callable(function):
        remedy = f"name a function that returns the model: {suggest_references(path_or_module)}"
        raise BadInput(f"{path_or_module} has no function {name!r}", remedy)
    return function  # type: ignore[no-any-return]  # a checked callable of an untyped module


def source_files(reference: str) -> tuple[Path, ...]:
    """The source files of `reference`, found without importing: its own and those it may import.

    For a file: the files in its folder, in its package, and in packages in its folder. For a module: its whole package.
    For an ONNX file: itself and the files of its external data. For a model of a hub: its local files, weights
    included. Raises BadInput if there is no such file or module.
    """
    if kind(reference) is SourceKind.GRAPH:
        files: tuple[Path, ...] = importlib.import_module(_GRAPH_FILES).files_of(Path(reference))
        return files
    path_or_module = reference.rpartition(":")[0]
    if doors.is_hub(reference):
        return doors.files(reference)
    if is_zoo(reference):
        return tuple(path for path in sorted(zoo_folder().glob("*.py")) if path.name != "specs.py")
    location = _locate(path_or_module)
    if location and path_or_module.endswith(".py"):
        folder, package = location.file.parent, location.package
        packages = [init.parent for init in folder.glob("*/__init__.py")] + ([package] if package else [])
        in_packages = (path for package_folder in packages for path in package_folder.rglob("*.py"))
        return tuple(sorted({*folder.glob("*.py"), *in_packages}))
    if location:
        return tuple(sorted({location.file, *(location.package.rglob("*.py") if location.package else ())}))
    return _installed_files(path_or_module)


def project_folder(reference: str) -> Path | None:
    """The folder that the file names of a model are relative to; None for an installed module."""
    if kind(reference) is SourceKind.GRAPH:
        return Path(reference).resolve().parent
    if is_zoo(reference):
        return zoo_folder()
    if doors.is_hub(reference):
        return doors.folder(reference)
    location = _locate(reference.rpartition(":")[0])
    return location.root if location else None


def module_name(reference: str) -> str:
    """The name in `sys.modules` of the module of a factory; empty for a model of a hub, whose code is its library's."""
    path_or_module = reference.rpartition(":")[0]
    if doors.is_hub(reference):
        return ""
    location = None if is_zoo(reference) else _locate(path_or_module)
    return location.name if location else path_or_module


def _installed_files(module: str) -> tuple[Path, ...]:
    """The source files of the package of an installed module."""
    try:
        spec = importlib.util.find_spec(module) if module else None
        package = importlib.util.find_spec(module.partition(".")[0]) if spec else None
    except (ImportError, ValueError):  # ValueError: a module object without a spec
        spec = package = None
    if spec is None or spec.origin is None:
        raise BadInput(
            f"there is no module {module!r}",
            "check the spelling, run this in the project's folder, add it to PYTHONPATH, "
            "or give the path: path/to/file.py:function",
        )
    folders = package.submodule_search_locations or () if package else ()
    return tuple(sorted({Path(spec.origin), *(path for folder in folders for path in Path(folder).rglob("*.py"))}))


def _locate(path_or_module: str) -> ModuleLocation | None:
    """Locates a file, or a module in the working directory; None for an installed or unknown module."""
    if path_or_module.endswith(".py"):
        return user_code.locate_file(_existing_file(path_or_module))
    try:
        return user_code.locate_module(path_or_module, Path.cwd())
    except OSError:  # the working directory was deleted
        return None


def _existing_file(path: str) -> Path:
    if not Path(path).is_file():
        raise BadInput(f"there is no file {path}", "check the path: path/to/file.py:function")
    return Path(path).resolve()


def _import_module(path_or_module: str, reference: str) -> ModuleType:
    if not path_or_module:
        raise BadInput(f"{reference!r} has no module", "write package.module:function or path/to/file.py:function")
    if path_or_module.startswith(ZOO):
        mount_zoo()
        return importlib.import_module(path_or_module)
    location = _locate(path_or_module)
    try:
        return user_code.load(location) if location else importlib.import_module(path_or_module)
    except ImportError as error:
        raise missing_module(reference, error) from error


def suggest_references(path_or_module: str) -> str:
    """References to the functions and classes of a file, for a remedy: `net.py:make or net.py:Net`."""
    names = candidates(Path(path_or_module)) if path_or_module.endswith(".py") else ()
    return " or ".join(f"{path_or_module}:{name}" for name in names or ("FACTORY",))


def candidates(file: Path) -> tuple[str, ...]:
    """The public functions and classes of a file that may return a model, from its syntax tree; empty on any error.

    Functions come first. If some classes derive from `Module`, other classes are left out.
    """
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    modules = [node for node in classes if any(ast.unparse(base).endswith("Module") for base in node.bases)]
    names = (*functions, *(node.name for node in modules or classes))
    return tuple(name for name in names if not name.startswith("_"))[:_MAX_SUGGESTIONS]


def missing_module(reference: str, error: ImportError) -> BadInput:
    """The error for a model whose code cannot be imported, or imports something that cannot be."""
    what = " ".join(str(error).split()) or "an import fails"
    remedy = "install the missing package, or add the folder of your own module: PYTHONPATH=FOLDER deploytool …"
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
