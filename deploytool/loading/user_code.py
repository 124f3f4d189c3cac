"""Imports the user's code from its project folder, as Python would there, without shadowing installed libraries.

A file in a package is imported as a part of it, so that relative imports work. Imports in user code search the project
folders first; imports in libraries that user code calls search them last. Project folders are never added to
`sys.path`, where any library could import a user's file of the same name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType

PRIVATE = "deploytool_user_"  # prefix of the module name of a single file
_MAX_STEM = 40  # characters of a file name in its module name
_PROJECT_MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
_OWN_IMPORTS = {  # imported by this tool, some of it lazily: no user file may replace it
    *("deploytool", "numpy", "torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "onnxsim", "safetensors"),
    *("tensorrt", "tensorrt_rtx", "cuda", "PIL", "jinja2", "matplotlib", "rich", "typer", "click"),
}
_RESERVED = _OWN_IMPORTS | sys.stdlib_module_names


@dataclass(frozen=True)
class ModuleLocation:
    """The location of a module: its file, its dotted name, and the folder of its top-level package.

    search_folders: where imports in the module are searched.
    """

    file: Path
    name: str
    root: Path
    search_folders: tuple[Path, ...]

    @property
    def package(self) -> Path | None:
        """The folder of the top-level package of the module; None for a single file."""
        top = self.root / self.name.partition(".")[0]
        return top if self.file.is_relative_to(top) else None


def locate_file(file: Path) -> ModuleLocation:
    """The module location of a file: in a package if its folder has an `__init__.py` or it uses relative imports."""
    parts, root = ([] if file.stem == "__init__" else [file.stem]), file.parent
    while (root / "__init__.py").is_file() and root.parent != root:
        parts, root = [root.name, *parts], root.parent
    if root == file.parent:
        for _ in range(_relative_levels(file)):
            parts, root = [root.name, *parts], root.parent
    search_folders = tuple(dict.fromkeys((file.parent, root, *_project_folders(file.parent))))
    importable = all(part.isidentifier() and part.isascii() and not keyword.iskeyword(part) for part in parts)
    if (len(parts) > 1 or file.stem == "__init__") and importable and parts[0] not in _RESERVED:
        return ModuleLocation(file, ".".join(parts), root, search_folders)
    return ModuleLocation(file, _private_name(file), file.parent, search_folders)


def locate_module(name: str, folder: Path) -> ModuleLocation | None:
    """Locates a module by its dotted name in a project folder or its `src`; None if there is none."""
    for root in (folder, folder / "src"):
        path = root.joinpath(*name.split("."))
        for file in (path.with_suffix(".py") if name else path, path / "__init__.py"):
            if name and file.is_file():
                reserved = name.partition(".")[0] in _RESERVED
                return locate_file(file) if reserved else ModuleLocation(file, name, root, (root, folder))
    return None


def load(location: ModuleLocation) -> ModuleType:
    """Imports the module; a single file is executed each time. Errors of the user's code propagate unchanged."""
    _unload_if_changed()
    _ProjectFinder.set_folders(location.search_folders)
    before = set(sys.modules)
    try:
        if location.package is None:
            return _execute(location.name, location.file)
        with _WithoutNamesake(location):
            return _import_from_package(location)
    finally:
        remember(set(sys.modules) - before)


def unload() -> None:
    """Removes all imported user modules from `sys.modules`, so that they are imported again."""
    for name in _loaded:
        sys.modules.pop(name, None)
    _loaded.clear()
    importlib.invalidate_caches()


def is_user_file(file: Path) -> bool:
    """Whether a file is user code: not part of Python, of an installed library, or of this tool."""
    return not any(file.is_relative_to(folder) for folder in _LIBRARIES) and not {
        "site-packages",
        "dist-packages",
        "__pycache__",
    } & set(file.parts)


_loaded: dict[str, tuple[Path, tuple[int, ...]]] = {}  # name of a user module: its file and the file's state
_LIBRARIES = tuple(
    {
        Path(sys.prefix) / "lib",
        Path(sys.base_prefix) / "lib",
        Path(ast.__file__).parent,
        Path(__file__).resolve().parents[1],
    }
)


def remember(names: Iterable[str]) -> None:
    """Remembers the user modules among `names`, to unload them when a file changes."""
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if isinstance(file, str) and is_user_file(Path(file)):
            with suppress(OSError):
                _loaded[name] = (Path(file), _state(Path(file)))


def _state(file: Path) -> tuple[int, ...]:
    if file.is_dir():
        return ()  # a namespace package: its modules are remembered separately
    status = file.stat()
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _unload_if_changed() -> None:
    """Unloads all user modules if the file of one has changed since its import."""
    for file, state in _loaded.values():
        try:
            if _state(file) == state:
                continue
        except OSError:
            pass
        unload()
        return


def _relative_levels(file: Path) -> int:
    """The largest number of dots in the relative imports of a file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return 0  # the import will raise it
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _project_folders(folder: Path) -> list[Path]:
    """The parents of `folder` in the same project: up to the working directory, or to a folder with a marker file."""
    parents = list(folder.parents)
    with suppress(OSError):
        if Path.cwd() in parents:
            return parents[: parents.index(Path.cwd()) + 1]
    for number, parent in enumerate(parents):
        if any((parent / name).exists() for name in _PROJECT_MARKERS):
            return parents[: number + 1]
    return []


def _private_name(file: Path) -> str:
    """A module name for a single file that no library has; in ASCII letters, which TorchScript requires."""
    ascii_stem = re.sub(r"[^A-Za-z0-9_]", "_", file.stem)[:_MAX_STEM]
    name = f"{PRIVATE}{ascii_stem}"
    if ascii_stem != file.stem:
        name += "_" + hashlib.sha256(file.stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    if _files.setdefault(name, file) != file:  # a second file of the same name in this process
        name += "_" + hashlib.sha256(str(file).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return name


_files: dict[str, Path] = {}


class _WithoutNamesake:
    """Removes a package of the same name in another folder from `sys.modules` during the import, then restores it."""

    def __init__(self, location: ModuleLocation) -> None:
        self._top, self._folder = location.name.partition(".")[0], location.root / location.name.partition(".")[0]
        self._removed: dict[str, ModuleType] = {}

    def __enter__(self) -> None:
        imported = sys.modules.get(self._top)
        if imported is None or str(self._folder) in list(getattr(imported, "__path__", ())):
            return
        names = [name for name in sys.modules if name == self._top or name.startswith(f"{self._top}.")]
        self._removed = {name: sys.modules.pop(name) for name in names}

    def __exit__(self, *_: object) -> None:
        not_loaded_here = {name: module for name, module in self._removed.items() if name not in _loaded}
        if not_loaded_here:  # the code that imported them still uses them
            names = [name for name in sys.modules if name == self._top or name.startswith(f"{self._top}.")]
            for name in names:
                sys.modules.pop(name)
            sys.modules.update(not_loaded_here)


def _import_from_package(location: ModuleLocation) -> ModuleType:
    """Imports a module of a package; creates the parent packages first, so that none is found in another folder."""
    parts = location.name.split(".")
    for count in range(1, len(parts) + (location.file.stem == "__init__")):
        name, folder = ".".join(parts[:count]), location.root.joinpath(*parts[:count])
        if name in sys.modules:
            continue
        if (folder / "__init__.py").is_file():
            _execute(name, folder / "__init__.py", [str(folder)])
        else:
            module = ModuleType(name)
            module.__path__ = [str(folder)]
            module.__spec__ = ModuleSpec(name, None, is_package=True)
            sys.modules[name] = module
    return importlib.import_module(location.name)


def _execute(name: str, file: Path, search: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None  # a .py path always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class _ProjectFinder:
    """A meta path finder: imports in user code search the folders of its project before installed libraries."""

    folders: tuple[Path, ...] = ()

    @classmethod
    def set_folders(cls, folders: Sequence[Path]) -> None:
        """Sets the folders to search, and installs the finder."""
        cls.folders = tuple(folders)
        if cls not in sys.meta_path:
            sys.meta_path.insert(0, cls)

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of a user module; None for other modules, and for imports that no user code causes."""
        if path is not None or name in _RESERVED:
            return None
        callers = cls._callers()
        by_user = next(callers, False)
        if not by_user and not any(callers):
            return None
        spec = PathFinder.find_spec(name, [str(folder) for folder in cls.folders])
        if spec is None or not by_user:  # imported by a library that user code called, as in unpickling
            return None if PathFinder.find_spec(name) else spec
        if spec.loader is not None:
            return spec
        locations = [Path(folder) for folder in spec.submodule_search_locations or ()]
        if any(next(folder.glob(pattern), None) for folder in locations for pattern in ("*.py", "*/*.py")):
            return spec
        return None if PathFinder.find_spec(name) else spec  # a data folder with the name of a library

    @classmethod
    def _callers(cls) -> Iterator[bool]:
        """Whether each caller is user code, from the importing code outwards."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            is_user_code = _is_user_code(frame.f_code.co_filename, cls.folders)
            if is_user_code is not None:
                yield is_user_code
            frame = frame.f_back


@lru_cache(maxsize=4096)  # called for every caller of every import
def _is_user_code(file: str, folders: tuple[Path, ...]) -> bool | None:
    """Whether a file is user code in these folders; None for Python's import system."""
    if file.startswith("<frozen importlib") or Path(file).parent.name == "importlib":
        return None
    return is_user_file(Path(file)) and any(Path(file).is_relative_to(folder) for folder in folders)
