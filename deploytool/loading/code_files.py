"""Records the files that a model's code reads while it builds the model, as part of the cache key of the result.

Audit events report opened files and listed folders. Existence checks (`Path("best.pt").exists()`) are recorded by a
wrapper of `os.stat`. Source files are those of the modules imported at the end. Network access and child processes
become remarks; environment variables and the clock are not recorded.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from deploytool import serde
from deploytool.loading import user_code

Sources = Mapping[str, str]  # path (relative inside the project): state, a word and a digest

READ, LISTED = "read", "listed"
ABSENT, FOLDER = "absent", "folder"
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/run/", "/etc/", "/usr/lib/", "/usr/share/", "/lib/", "/lib64/")
_CACHES = ("matplotlib", "fontconfig", "mesa_shader_cache", "torchinductor_", "pip")
_MAX_DIGEST_BYTES = 1 << 30  # larger files are identified by size and modification time
_SAFETENSORS = ("safetensors", "safetensors.torch", "safetensors.numpy")  # opens files in Rust, without audit events


@dataclass
class ImportRecord:
    """Paths that were opened, checked, listed or written, and accesses that no cache key can cover."""

    opened: set[str] = field(default_factory=set)
    checked: set[str] = field(default_factory=set)
    checked_by_libraries: set[str] = field(default_factory=set)  # once per process: libraries cache the answer
    listed: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    network: bool = False
    programs: set[str] = field(default_factory=set)
    modules: frozenset[str] = frozenset()


_PYTHON = str(Path(os.__file__).parent) + os.sep
_active: list[ImportRecord] = []  # the current record; empty if nothing is recorded
_hook_installed: list[bool] = []


@contextmanager
def record_reads() -> Iterator[ImportRecord]:
    """Records what this process reads inside the context; the user's modules are unloaded first."""
    user_code.unload()
    if not _hook_installed:
        sys.addaudithook(_audit)  # audit hooks cannot be removed: it does nothing while no record is active
        _hook_installed.append(True)
    record, modules_before = ImportRecord(), set(sys.modules)
    with _record_stat(record), _record_safetensors(record):
        _active.append(record)
        try:
            yield record
        finally:
            _active.clear()
            record.modules = frozenset(set(sys.modules) - modules_before)
            user_code.remember(record.modules)


def sources(record: ImportRecord, module: str, project: Path | None, but: tuple[Path, ...]) -> Sources:
    """The current state of all recorded files, and of the source files of `module`.

    project: the folder of `module`. but: paths to leave out, which the cache key covers otherwise.
    """
    code = {str(file) for file in _source_files(module, record.modules, user_code.is_user_file)}
    excluded = tuple(os.path.abspath(path) for path in (*but, *_temporary_folder(project)))  # noqa: PTH100
    in_project = {path for path in record.checked_by_libraries if project and Path(path).is_relative_to(project)}
    accessed = record.opened | record.checked | in_project
    data = {path for path in accessed if _is_relevant(path, excluded) and path not in record.written}
    folders = {path for path in record.listed if _is_relevant(path, excluded)}
    files = {_name(path, project): _state(READ, path) for path in code | data}
    return files | {f"{_name(path, project)}/": _state(LISTED, path) for path in folders}


def sources_of_code(module: str, folder: Path) -> Sources:
    """The current state of the source files in `folder` that belong to a module or to modules it uses."""
    code = _source_files(module, frozenset(), lambda file: file.is_relative_to(folder))
    return {_name(str(file), folder): _state(READ, str(file)) for file in code}


def sources_of_files(files: Iterable[Path], project: Path | None) -> Sources:
    """The current state of these files: a graph and its external data."""
    return {_name(str(file.resolve()), project): _state(READ, str(file)) for file in files}


def current_digests(known: Sources, project: Path | None) -> Sources:
    """The current state of the same sources."""
    return {name: _state(LISTED if name.endswith("/") else READ, str(_path(name, project))) for name in known}


def remarks(record: ImportRecord) -> list[str]:
    """A line for each kind of access whose result may change without the cache key changing."""
    lines = []
    if record.network:
        lines.append("the model's own code accessed the network: changes there are not detected")
    if record.programs:
        names = ", ".join(sorted(record.programs))
        lines.append(f"the model's own code ran {names}: changes of what it read or printed are not detected")
    return lines


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook; must be fast, and must not raise into the audited call."""
    if not _active:
        return
    with suppress(Exception):
        record = _active[0]
        if event == "open":
            _record_open(record, *arguments)
        elif event in ("os.listdir", "os.scandir"):
            _add(record.listed, "." if arguments[0] is None else arguments[0])
        elif event in ("sqlite3.connect", "ctypes.dlopen"):
            _add(record.opened, arguments[0])
        elif event in ("socket.connect", "socket.getaddrinfo"):
            record.network |= event != "socket.connect" or isinstance(arguments[1], tuple)
        elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec") and _called_by_user():
            record.programs.add(os.path.basename(os.fsdecode(arguments[0] or arguments[1][0]).split()[0]))  # noqa: PTH119


def _record_open(record: ImportRecord, path: object, mode: str | None, flags: int) -> None:
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else bool(set(mode) & set("wax"))
    _add(record.written if writes else record.opened, path)


def _add(paths: set[str], path: object) -> None:
    if isinstance(path, (str, bytes, os.PathLike)) and not _called_by_import():
        paths.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100  # keeps links: their target may change


def _called_by_import() -> bool:
    """Whether the import system reads: source files are collected from `sys.modules` instead."""
    frame = sys._getframe(3)
    return frame is not None and frame.f_code.co_filename.startswith("<frozen importlib")


def _called_by_user() -> bool:
    """Whether the innermost caller outside the standard library is user code."""
    frame = sys._getframe(2)
    while frame is not None and _is_standard_library(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]  # None ends it
    return frame is not None and _is_user_file(frame.f_code.co_filename)


@lru_cache(maxsize=4096)  # called for every os.stat
def _is_user_file(file: str) -> bool:
    return user_code.is_user_file(Path(file))


def _is_standard_library(file: str) -> bool:
    return file.startswith(("<frozen ", _PYTHON)) and "-packages" not in file


@contextmanager
def _record_stat(record: ImportRecord) -> Iterator[None]:
    """Records paths that are checked but not opened: os.path.exists, Path.is_file and others call os.stat."""
    original = os.stat

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if _active and options.get("dir_fd") is None:
            with suppress(Exception):
                _add(record.checked if _called_by_user() else record.checked_by_libraries, path)
        return original(path, *arguments, **options)

    os.stat = stat
    try:
        yield
    finally:
        os.stat = original


@contextmanager
def _record_safetensors(record: ImportRecord) -> Iterator[None]:
    """Records the files that safetensors opens."""
    modules = {
        name: module for name in _SAFETENSORS if (module := sys.modules.get(name)) and hasattr(module, "safe_open")
    }
    originals = {name: module.safe_open for name, module in modules.items()}

    def safe_open(filename: Any, *arguments: Any, **options: Any) -> Any:
        with suppress(Exception):
            _add(record.opened, filename)
        return next(iter(originals.values()))(filename, *arguments, **options)

    for module in modules.values():
        module.safe_open = safe_open  # type: ignore[attr-defined]  # checked above
    try:
        yield
    finally:
        for name, module in modules.items():
            module.safe_open = originals[name]  # type: ignore[attr-defined]


def _source_files(module: str, more: frozenset[str], is_relevant: Callable[[Path], bool]) -> set[Path]:
    """The relevant source files of `module`, of `more`, and of all modules whose names they refer to."""
    pending, visited = [module, *more], set()
    while pending:
        name = pending.pop()
        imported = sys.modules.get(name)
        if name in visited or imported is None or not (file := _file(imported)) or not is_relevant(file):
            continue
        visited.add(name)
        for value in list(vars(imported).values()):
            used = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(used, str):
                pending.append(used)
    return {file for name in visited if (file := _file(sys.modules[name]))}


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _temporary_folder(project: Path | None) -> tuple[Path, ...]:
    """The folder of this process for temporary files, unless the project is inside it."""
    folder = Path(tempfile.gettempdir())
    is_own = folder.name.startswith("deploytool-") and not (project and project.is_relative_to(folder))
    return (folder,) if is_own else ()


def _is_relevant(path: str, excluded: tuple[str, ...]) -> bool:
    """Whether a path is a user file outside of `excluded`, system folders and caches."""
    if path.startswith(_SYSTEM) or any(path == prefix or path.startswith(f"{prefix}/") for prefix in excluded):
        return False
    cache = any(part.startswith(_CACHES) for part in Path(path).parts) and f"{os.sep}.cache{os.sep}" in path
    return not cache and "torchinductor_" not in path and user_code.is_user_file(Path(path))


def _name(path: str, project: Path | None) -> str:
    """A path relative to the project's folder, which may be moved; absolute outside of it."""
    absolute = Path(path)
    return f"./{absolute.relative_to(project).as_posix()}" if project and absolute.is_relative_to(project) else path


def _path(name: str, project: Path | None) -> Path:
    return project / name[2:] if project and name.startswith("./") else Path(name)


def _state(kind: str, path: str) -> str:
    """The state of a file or folder, for comparison in later runs; hidden names in a folder do not count."""
    try:
        if kind == LISTED:
            names = sorted(name for name in os.listdir(path) if not name.startswith((".", "__pycache__")))  # noqa: PTH208
            return f"{LISTED} {serde.digest(names)}"
        if os.path.isdir(path):  # noqa: PTH112
            return FOLDER
        status = Path(path).stat()
        if status.st_size > _MAX_DIGEST_BYTES:
            return f"{READ} {status.st_size} {status.st_mtime_ns}"
        return f"{READ} {serde.file_digest(Path(path))}"
    except OSError:
        return ABSENT
