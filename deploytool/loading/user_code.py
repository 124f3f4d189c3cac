"""Imports a user's own code from where it lies, as Python run there would, without letting it hide a library.

A file in a package is imported as a part of it, so that relative imports work. Other folders of the project are
searched for what the user's own code imports, and last of all for what a library imports on its behalf; they never
come onto `sys.path`, where any library would find a file of theirs that is called as what it looks for.
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

PRIVATE = "deploytool_user_"
_LONGEST = 40  # letters of a file's name in that of its module
_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
_OURS = {  # what we import ourselves, some of it late: no file beside a net may take its place
    *("deploytool", "numpy", "torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "onnxsim", "safetensors"),
    *("tensorrt", "tensorrt_rtx", "cuda", "PIL", "jinja2", "matplotlib", "rich", "typer", "click"),
}
_RESERVED = _OURS | sys.stdlib_module_names


@dataclass(frozen=True)
class ModuleLocation:
    """Where a module lies: its file, its name in dots, the folder that the first part of the name lies in.

    `beside` are the folders in which its own imports are looked for.
    """

    file: Path
    name: str
    root: Path
    beside: tuple[Path, ...]

    @property
    def package(self) -> Path | None:
        """The outermost package that it is a part of, if it is one."""
        top = self.root / self.name.partition(".")[0]
        return top if self.file.is_relative_to(top) else None


def locate_file(file: Path) -> ModuleLocation:
    """The module that a file is: a part of its package, if there is an `__init__.py` beside it or it imports so."""
    parts, root = ([] if file.stem == "__init__" else [file.stem]), file.parent
    while (root / "__init__.py").is_file() and root.parent != root:
        parts, root = [root.name, *parts], root.parent
    if root == file.parent:
        for _ in range(_levels(file)):
            parts, root = [root.name, *parts], root.parent
    beside = tuple(dict.fromkeys((file.parent, root, *_project(file.parent))))
    plain = all(part.isidentifier() and part.isascii() and not keyword.iskeyword(part) for part in parts)
    if (len(parts) > 1 or file.stem == "__init__") and plain and parts[0] not in _RESERVED:
        return ModuleLocation(file, ".".join(parts), root, beside)
    return ModuleLocation(file, _private(file), file.parent, beside)


def locate_module(name: str, folder: Path) -> ModuleLocation | None:
    """The module of a dotted name in a project's folder, or in `src` in it; None if there is none."""
    for root in (folder, folder / "src"):
        inside = root.joinpath(*name.split("."))
        for file in (inside.with_suffix(".py") if name else inside, inside / "__init__.py"):
            if name and file.is_file():
                known = name.partition(".")[0] not in _RESERVED
                return ModuleLocation(file, name, root, (root, folder)) if known else locate_file(file)
    return None


def load(place: ModuleLocation) -> ModuleType:
    """The module, executed anew if it is a file by itself; raises whatever the user's code raises."""
    _renew()
    _Beside.search(place.beside)
    before = set(sys.modules)
    try:
        if place.package is None:
            return _executed(place.name, place.file)
        with _aside(place):
            return _imported(place)
    finally:
        remember(set(sys.modules) - before)


def unload() -> None:
    """Has all of the user's code that was imported here be imported anew the next time."""
    for name in _loaded:
        sys.modules.pop(name, None)
    _loaded.clear()
    importlib.invalidate_caches()


def is_user_file(file: Path) -> bool:
    """Whether a file is the user's own: no part of Python, of an installed library, or of us."""
    return not any(file.is_relative_to(folder) for folder in _LIBRARIES) and not {
        "site-packages",
        "dist-packages",
        "__pycache__",
    } & set(file.parts)


_loaded: dict[str, tuple[Path, tuple[int, ...]]] = {}  # by name: the file of a module of the user's, as it was
_LIBRARIES = tuple(
    {
        Path(sys.prefix) / "lib",
        Path(sys.base_prefix) / "lib",
        Path(ast.__file__).parent,
        Path(__file__).resolve().parents[1],
    }
)


def remember(names: Iterable[str]) -> None:
    """Remembers modules that were imported for the user's code, to forget them where they change."""
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if isinstance(file, str) and is_user_file(Path(file)):
            with suppress(OSError):
                _loaded[name] = (Path(file), _state(Path(file)))


def _state(file: Path) -> tuple[int, ...]:
    if file.is_dir():
        return ()  # a package without __init__.py: its modules count by themselves
    found = file.stat()
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def _renew() -> None:
    """Forgets everything where a file is no longer as it was when it was imported."""
    for file, state in _loaded.values():
        try:
            if _state(file) == state:
                continue
        except OSError:
            pass
        unload()
        return


def _levels(file: Path) -> int:
    """How many folders up the relative imports of a file reach."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return 0  # importing it will say so
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _project(folder: Path) -> list[Path]:
    """The folders above that belong to the same project: up to the working folder, or to the file that marks one."""
    above = list(folder.parents)
    with suppress(OSError):
        if Path.cwd() in above:
            return above[: above.index(Path.cwd()) + 1]
    marked = next((at for at, each in enumerate(above) if any((each / name).exists() for name in _PROJECT)), None)
    return [] if marked is None else above[: marked + 1]


def _private(file: Path) -> str:
    """A name that no library has, and that TorchScript takes: it wants ASCII letters."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", file.stem)[:_LONGEST]
    name = f"{PRIVATE}{plain}"
    if plain != file.stem:
        name += "_" + hashlib.sha256(file.stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    if _files.setdefault(name, file) != file:  # another file of that name, in this same process
        name += "_" + hashlib.sha256(str(file).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return name


_files: dict[str, Path] = {}


class _aside:  # noqa: N801  # reads as what it does
    """Keeps modules of the same name that lie elsewhere out of the way while this one is imported."""

    def __init__(self, place: ModuleLocation) -> None:
        self._top, self._folder = place.name.partition(".")[0], place.root / place.name.partition(".")[0]
        self._others: dict[str, ModuleType] = {}

    def __enter__(self) -> None:
        there = sys.modules.get(self._top)
        if there is None or str(self._folder) in list(getattr(there, "__path__", ())):
            return
        names = [name for name in sys.modules if name == self._top or name.startswith(f"{self._top}.")]
        self._others = {name: sys.modules.pop(name) for name in names}

    def __exit__(self, *_: object) -> None:
        foreign = {name: module for name, module in self._others.items() if name not in _loaded}
        if foreign:  # whoever imported it goes on with it
            names = [name for name in sys.modules if name == self._top or name.startswith(f"{self._top}.")]
            for name in names:
                sys.modules.pop(name)
            sys.modules.update(foreign)


def _imported(place: ModuleLocation) -> ModuleType:
    """The module as a part of its package, whose outer parts are made by hand: nothing is looked for elsewhere."""
    parts = place.name.split(".")
    for count in range(1, len(parts) + (place.file.stem == "__init__")):
        name, folder = ".".join(parts[:count]), place.root.joinpath(*parts[:count])
        if name in sys.modules:
            continue
        if (folder / "__init__.py").is_file():
            _executed(name, folder / "__init__.py", [str(folder)])
        else:
            module = ModuleType(name)
            module.__path__ = [str(folder)]
            module.__spec__ = ModuleSpec(name, None, is_package=True)
            sys.modules[name] = module
    return importlib.import_module(place.name)


def _executed(name: str, file: Path, search: list[str] | None = None) -> ModuleType:
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


class _Beside:
    """Finds what the user's own code imports in the folders of its project, before any library of that name."""

    folders: tuple[Path, ...] = ()

    @classmethod
    def search(cls, folders: Sequence[Path]) -> None:
        """From here on the imports of code in these folders are looked for in them first."""
        cls.folders = tuple(folders)
        if cls not in sys.meta_path:
            sys.meta_path.insert(0, cls)

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Where a module of the user's lies; None for what is none, or is asked for by a library."""
        if path is not None or name in _RESERVED:
            return None
        asking = cls._asking()
        by_user = next(asking, False)
        if not by_user and not any(asking):
            return None
        found = PathFinder.find_spec(name, [str(folder) for folder in cls.folders])
        if found is None or not by_user:  # a library asks, as one that unpickles does
            return None if PathFinder.find_spec(name) else found
        if found.loader is not None:
            return found
        inside = [Path(folder) for folder in found.submodule_search_locations or ()]
        if any(next(each.glob(pattern), None) for each in inside for pattern in ("*.py", "*/*.py")):
            return found
        return None if PathFinder.find_spec(name) else found  # a folder of data that is called as a library is

    @classmethod
    def _asking(cls) -> Iterator[bool]:
        """Whether code is the user's, for whoever asked for the import, and for those who called that."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            asks = _asks(frame.f_code.co_filename, cls.folders)
            if asks is not None:
                yield asks
            frame = frame.f_back


@lru_cache(maxsize=4096)  # every import asks this of every caller
def _asks(file: str, folders: tuple[Path, ...]) -> bool | None:
    """Whether a file is the user's own code in these folders; None for Python's own import system."""
    if file.startswith("<frozen importlib") or Path(file).parent.name == "importlib":
        return None
    return is_user_file(Path(file)) and any(Path(file).is_relative_to(folder) for folder in folders)
