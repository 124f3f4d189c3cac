"""Describes an exception in one clean line: its type, its message, and the line of the user's code that raised it."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploytool.errors import BadInput, DeployError, MissingBackend, UnexpectedError
from deploytool.host import disk, owner
from deploytool.host.terminal import visible

_PACKAGE = Path(__file__).resolve().parents[1]
_MODELS = _PACKAGE / "models"  # model definitions in the wheel are treated like a user's code
_MAX_LENGTH = 400  # characters of a message
_CONTEXT = 20  # characters shown before and after one that cannot be encoded
_INTERNAL_NAMES = re.compile(
    r"\.lock|\.incoming|\.unfinished|\.publishing|\.(making|staging)-.*|\..*\.(making|fetching)"
)
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\].*?(?:\x07|\x1b\\|$)|\x1b.", re.DOTALL)


def describe(error: BaseException, *, kind: bool = True) -> str:
    """`TYPE: MESSAGE (FILE:LINE)` in one line, where each part is left out if unknown; `kind` includes the type."""
    name, message, location = type(error).__name__, one_line(error), raised_at(error)
    text = f"{name}: {message}" if message and kind else message or name
    return clean(text) + (f" ({location})" if location else "")


def one_line(error: BaseException) -> str:
    """The message of an exception in one line; that of an exception group includes its first exception."""
    try:
        message = str(error)
    except Exception as failure:  # __str__ of a foreign class may raise anything
        message = f"its message cannot be read: {type(failure).__name__}"
    inner = getattr(error, "exceptions", None)
    if isinstance(inner, tuple) and inner and isinstance(inner[0], BaseException):
        message = f"{message}: {type(inner[0]).__name__}: {one_line(inner[0])}"
    return clean(message)


def clean(text: str) -> str:
    """Foreign text as one visible line of at most 400 characters, without escape sequences and line breaks."""
    line = visible(" ".join(_ESCAPES.sub("", text).split()))
    return line if len(line) <= _MAX_LENGTH else f"{line[: _MAX_LENGTH - 1]}…"


def as_error(error: Exception) -> DeployError:
    """The DeployError for any exception: the exception itself, an error of the environment, or UnexpectedError."""
    if isinstance(error, DeployError):
        return error
    if (exhausted := disk.as_resource_exhausted(error)) is not None:
        return exhausted
    if isinstance(error, OSError) and (error.strerror or not raised_at(error)):
        problem = f"{_user_path(error.filename)}: {error.strerror}" if error.strerror else one_line(error)
        return BadInput(problem, "check the path, its permissions and the disk")
    if isinstance(error, MemoryError):
        return BadInput(f"not enough memory: {describe(error)}", "raise the limit (ulimit -v), or use another machine")
    if isinstance(error, UnicodeEncodeError) and not raised_at(error):
        context = error.object[max(0, error.start - _CONTEXT) : error.end + _CONTEXT]
        problem = f"a name or text cannot be encoded in {error.encoding}: …{clean(context)}…"
        return BadInput(problem, "rename the file, or use a UTF-8 locale: LC_ALL=C.UTF-8")
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        remedy = "reinstall it, and check the memory limit (ulimit -v)"
        return MissingBackend(f"a library cannot be loaded: {describe(error)}", remedy)
    in_user_code, in_deploytool = raised_at(error), _raised_at_in_deploytool(error)
    text = describe(error) if in_user_code or not in_deploytool else f"{describe(error)} ({in_deploytool})"
    return UnexpectedError(text, "--verbose shows the traceback; report it unless your code raised it")


@contextmanager
def as_deploy_errors() -> Iterator[None]:
    """Converts every exception to a DeployError, with the exception as its cause; KeyboardInterrupt passes."""
    try:
        yield
    except DeployError:
        raise
    except SystemExit as error:  # raised by foreign code: it must not end the process
        raise UnexpectedError(
            describe(error), "--verbose shows the traceback; raise an exception there instead"
        ) from error
    except Exception as error:
        raise as_error(error) from error


def raised_at(error: BaseException) -> str:
    """`FILE:LINE` of the innermost frame in the user's code; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return _location(error.filename, error.lineno or 1)
    frames = [(frame.filename, number) for frame, number in _frames(error)]
    ranked = [(_rank(file), file, number) for file, number in frames]
    for wanted in (0, 1):  # the user's own files before the libraries that they use
        matches = [(file, number) for rank, file, number in ranked if rank == wanted]
        if matches:
            return _location(*matches[-1])
    return ""


def trace(error: BaseException) -> list[str]:
    """The lines of the traceback, with those of its causes."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    return [_ESCAPES.sub("", line).expandtabs() for line in lines]


def _user_path(name: str | bytes | int | None) -> str:
    """A file name for a message; for locks and temporary files of deploytool, the folder that they are in."""
    path = Path(os.fsdecode(name)) if isinstance(name, (str, bytes)) else None
    if path is None or not path.is_absolute():
        try:
            os.getcwd()  # noqa: PTH109  # fails if it was deleted
        except OSError:
            return "the working folder"
    if path is None:
        return "a file"
    internal = [part for part in (path, *path.parents) if _INTERNAL_NAMES.fullmatch(part.name) or owner.read(part.name)]
    shown = internal[-1].parent if internal else path
    return "this folder" if shown == Path() else str(shown)


def _raised_at_in_deploytool(error: BaseException) -> str:
    """`FILE:LINE` of the innermost frame in deploytool; empty if there is none."""
    frames = [(frame.filename, line) for frame, line in _frames(error)]
    own = [(Path(file), line) for file, line in frames if Path(file).is_relative_to(_PACKAGE)]
    return clean(f"deploytool/{own[-1][0].relative_to(_PACKAGE)}:{own[-1][1]}") if own else ""


def _frames(error: BaseException) -> list[tuple[traceback.FrameSummary, int]]:
    steps = traceback.walk_tb(error.__traceback__)
    summaries = traceback.StackSummary.extract(steps, lookup_lines=False)
    return [(frame, frame.lineno or 1) for frame in summaries]


def _rank(file: str) -> int:
    """0 for the user's own files, 1 for libraries they use, 2 for torch, typer, Python and deploytool."""
    path = Path(file)
    files = (getattr(sys.modules.get(name), "__file__", None) for name in ("torch", "typer"))
    excluded = [_PACKAGE, *(Path(file).parent for file in files if file)]
    is_excluded = any(path.is_relative_to(folder) for folder in excluded) and not path.is_relative_to(_MODELS)
    if file.startswith("<") or is_excluded:
        return 2
    if {"site-packages", "dist-packages"} & set(path.parts):
        return 1
    return 2 if path.is_relative_to(sysconfig.get_path("stdlib")) else 0


def _location(file: str, line: int) -> str:
    path = Path(file)
    try:
        path = path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        path = Path(path.name)
    return clean(f"{path}:{line}")
