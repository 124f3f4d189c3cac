"""What the code of a model reads while it makes the model: whoever keeps a result by it must know if that changes.

Python's audit events tell which files are opened and which folders are listed; what is only asked for (does best.pt
exist?) is heard where `os.stat` is called. Code itself is taken from the modules that are there in the end. What comes
from a network, a program, the environment or the clock is no file: the first two are at least said.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from deploytool import serde
from deploytool.loading import user_code

Sources = Mapping[str, str]  # by name, which is relative to the project where it lies there: a word and a digest

READ, LISTED = "read", "listed"
ABSENT, FOLDER = "absent", "folder"
_ELSEWHERE = ("/proc/", "/sys/", "/dev/", "/run/", "/etc/", "/usr/lib/", "/usr/share/", "/lib/", "/lib64/")
_CACHES = ("matplotlib", "fontconfig", "mesa_shader_cache", "torchinductor_", "pip")
_LARGEST = 1 << 30  # bytes: of a file that is only asked for and is larger, size and time must do
_SAFETENSORS = ("safetensors", "safetensors.torch", "safetensors.numpy")  # it opens files in Rust, unheard


@dataclass
class ImportRecord:
    """What was read: paths of files and folders, and what else was asked that no key can cover."""

    opened: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    asked_by_libraries: set[str] = field(default_factory=set)  # which they do once, and remember
    listed: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    network: bool = False
    programs: set[str] = field(default_factory=set)
    modules: frozenset[str] = frozenset()


_PYTHON = str(Path(os.__file__).parent) + os.sep
_now: list[ImportRecord] = []  # what is being recorded, if anything is
_hooked: list[bool] = []


@contextmanager
def record_reads() -> Iterator[ImportRecord]:
    """Records what this process reads until this is left; the user's own modules are imported anew meanwhile."""
    user_code.unload()
    if not _hooked:
        sys.addaudithook(_hear)  # which nobody can take away again: it does nothing while nothing is recorded
        _hooked.append(True)
    record, before = ImportRecord(), set(sys.modules)
    with _asking(record), _opening(record):
        _now.append(record)
        try:
            yield record
        finally:
            _now.clear()
            record.modules = frozenset(set(sys.modules) - before)
            user_code.remember(record.modules)


def sources(record: ImportRecord, module: str, project: Path | None, but: tuple[Path, ...]) -> Sources:
    """What was read, as it is now, by name; `but` are paths that count otherwise, `project` the folder of `module`."""
    code = {str(file) for file in _code(module, record.modules, user_code.is_user_file)}
    left = tuple(os.path.abspath(path) for path in (*but, *_scratch(project)))  # noqa: PTH100  # links stay links
    near = {path for path in record.asked_by_libraries if project and Path(path).is_relative_to(project)}
    asked = record.opened | record.asked | near
    kept = {path for path in asked if _counts(path, left) and path not in record.written}
    folders = {path for path in record.listed if _counts(path, left)}
    found = {_name(path, project): _state(READ, path) for path in code | kept}
    return found | {f"{_name(path, project)}/": _state(LISTED, path) for path in folders}


def sources_of_code(module: str, folder: Path) -> Sources:
    """The files in `folder` that a module and what it uses are written in."""
    code = _code(module, frozenset(), lambda file: file.is_relative_to(folder))
    return {_name(str(file), folder): _state(READ, str(file)) for file in code}


def current_digests(known: Sources, project: Path | None) -> Sources:
    """The same sources as they are at this moment."""
    return {name: _state(LISTED if name.endswith("/") else READ, str(_path(name, project))) for name in known}


def remarks(record: ImportRecord) -> list[str]:
    """A line for everything that was asked and that may change unnoticed."""
    lines = []
    if record.network:
        lines.append("the model's own code asked the network: what comes from there may change unnoticed")
    if record.programs:
        names = ", ".join(sorted(record.programs))
        lines.append(f"the model's own code ran {names}: what it read or printed may change unnoticed")
    return lines


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: it must be quick, and must never fail what it listens to."""
    if not _now:
        return
    with suppress(Exception):
        if event == "open":
            _opened(_now[0], *arguments)
        elif event in ("os.listdir", "os.scandir"):
            _note(_now[0].listed, "." if arguments[0] is None else arguments[0])
        elif event in ("sqlite3.connect", "ctypes.dlopen"):
            _note(_now[0].opened, arguments[0])
        elif event in ("socket.connect", "socket.getaddrinfo"):
            _now[0].network |= event != "socket.connect" or isinstance(arguments[1], tuple)
        elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec") and _by_user():
            _now[0].programs.add(os.path.basename(os.fsdecode(arguments[0] or arguments[1][0]).split()[0]))  # noqa: PTH119


def _opened(record: ImportRecord, path: object, mode: str | None, flags: int) -> None:
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else bool(set(mode) & set("wax"))
    _note(record.written if writes else record.opened, path)


def _note(kept: set[str], path: object) -> None:
    if isinstance(path, (str, bytes, os.PathLike)) and not _by_import():
        kept.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100  # links stay links: where they lead may change


def _by_import() -> bool:
    """Whether it is the import system that reads: modules are counted by themselves."""
    frame = sys._getframe(3)
    return frame is not None and frame.f_code.co_filename.startswith("<frozen importlib")


def _by_user() -> bool:
    """Whether the user's own code is what called the module of Python's that does it."""
    frame = sys._getframe(2)
    while frame is not None and _is_python(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]  # None ends it
    return frame is not None and _is_users(frame.f_code.co_filename)


@lru_cache(maxsize=4096)  # every call of os.stat asks this
def _is_users(file: str) -> bool:
    return user_code.is_user_file(Path(file))


def _is_python(file: str) -> bool:
    return file.startswith(("<frozen ", _PYTHON)) and "-packages" not in file


@contextmanager
def _asking(record: ImportRecord) -> Iterator[None]:
    """Hears what is asked for without being opened: os.path.exists, Path.is_file and their like end in os.stat."""
    usual = os.stat

    def heard(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if _now and options.get("dir_fd") is None:
            with suppress(Exception):
                _note(record.asked if _by_user() else record.asked_by_libraries, path)
        return usual(path, *arguments, **options)

    os.stat = heard
    try:
        yield
    finally:
        os.stat = usual


@contextmanager
def _opening(record: ImportRecord) -> Iterator[None]:
    """Hears what safetensors opens."""
    usual = {
        name: module for name in _SAFETENSORS if (module := sys.modules.get(name)) and hasattr(module, "safe_open")
    }
    originals = {name: module.safe_open for name, module in usual.items()}

    def heard(filename: Any, *arguments: Any, **options: Any) -> Any:
        with suppress(Exception):
            _note(record.opened, filename)
        return next(iter(originals.values()))(filename, *arguments, **options)

    for module in usual.values():
        module.safe_open = heard  # type: ignore[attr-defined]  # it is there
    try:
        yield
    finally:
        for name, module in usual.items():
            module.safe_open = originals[name]  # type: ignore[attr-defined]


def _code(module: str, more: frozenset[str], counts: Callable[[Path], bool]) -> set[Path]:
    """The files of a module and of those that it uses, as far as they count, and of `more`."""
    todo, seen = [module, *more], set()
    while todo:
        name = todo.pop()
        there = sys.modules.get(name)
        if name in seen or there is None or not (file := _file(there)) or not counts(file):
            continue
        seen.add(name)
        for value in list(vars(there).values()):
            inner = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(inner, str):
                todo.append(inner)
    return {file for name in seen if (file := _file(sys.modules[name]))}


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _scratch(project: Path | None) -> tuple[Path, ...]:
    """Our own folder for temporary files, unless the project itself lies in it."""
    folder = Path(tempfile.gettempdir())
    ours = folder.name.startswith("deploytool-") and not (project and project.is_relative_to(folder))
    return (folder,) if ours else ()


def _counts(path: str, but: tuple[str, ...]) -> bool:
    if path.startswith(_ELSEWHERE) or any(path == each or path.startswith(f"{each}/") for each in but):
        return False
    cache = any(part.startswith(_CACHES) for part in Path(path).parts) and f"{os.sep}.cache{os.sep}" in path
    return not cache and "torchinductor_" not in path and user_code.is_user_file(Path(path))


def _name(path: str, project: Path | None) -> str:
    """A path by the project's folder, which may lie elsewhere another time."""
    where = Path(path)
    return f"./{where.relative_to(project).as_posix()}" if project and where.is_relative_to(project) else path


def _path(name: str, project: Path | None) -> Path:
    return project / name[2:] if project and name.startswith("./") else Path(name)


def _state(kind: str, path: str) -> str:
    """A word and a digest: what a later run must find in the same state. Hidden names in a folder do not count."""
    try:
        if kind == LISTED:
            names = sorted(name for name in os.listdir(path) if not name.startswith((".", "__pycache__")))  # noqa: PTH208
            return f"{LISTED} {serde.digest(names)}"
        if os.path.isdir(path):  # noqa: PTH112
            return FOLDER
        found = Path(path).stat()
        if found.st_size > _LARGEST:
            return f"{READ} {found.st_size} {found.st_mtime_ns}"
        return f"{READ} {serde.file_digest(Path(path))}"
    except OSError:
        return ABSENT
