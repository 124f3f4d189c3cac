"""What an exception says, in one clean line: its kind, its words, and where in the user's code it was raised."""

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
_ZOO = _PACKAGE / "models"  # definitions inside the wheel are code like a user's
_LONGEST = 400  # characters
_AROUND = 20  # characters before and behind one that is shown
_INNER = re.compile(r"\.lock|\.incoming|\.unfinished|\.publishing|\.(making|staging)-.*|\..*\.(making|fetching)")
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\].*?(?:\x07|\x1b\\|$)|\x1b.", re.DOTALL)


def describe(error: BaseException, *, kind: bool = True) -> str:
    """`KIND: WORDS (FILE:LINE)` in one line, without what there is not; without `kind`, `WORDS (FILE:LINE)`."""
    name, said, where = type(error).__name__, one_line(error), raised_at(error)
    full = f"{name}: {said}" if said and kind else said or name
    return clean(full) + (f" ({where})" if where else "")


def one_line(error: BaseException) -> str:
    """What the exception says for itself, in one line; of a group what its first says too."""
    try:
        said = str(error)
    except Exception as failure:  # its own code may raise anything
        said = f"its message cannot be read: {type(failure).__name__}"
    inner = getattr(error, "exceptions", None)
    if isinstance(inner, tuple) and inner and isinstance(inner[0], BaseException):
        said = f"{said}: {type(inner[0]).__name__}: {one_line(inner[0])}"
    return clean(said)


def clean(text: str) -> str:
    """What a library says as one visible line of at most 400 characters, without its colours and line breaks."""
    line = visible(" ".join(_ESCAPES.sub("", text).split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def as_error(error: Exception) -> DeployError:
    """The failure of ours that an exception of any kind becomes: itself, a file that cannot be used, or unforeseen."""
    if isinstance(error, DeployError):
        return error
    if (full := disk.as_resource_exhausted(error)) is not None:
        return full
    if isinstance(error, OSError) and (error.strerror or not raised_at(error)):
        problem = f"{_known(error.filename)}: {error.strerror}" if error.strerror else one_line(error)
        return BadInput(problem, "check the path, its rights and the disk")
    if isinstance(error, MemoryError):
        return BadInput(
            f"there is not enough memory: {describe(error)}", "allow more (ulimit -v), or use another machine"
        )
    if isinstance(error, UnicodeEncodeError) and not raised_at(error):
        around = error.object[max(0, error.start - _AROUND) : error.end + _AROUND]
        problem = f"a name or text cannot be written in {error.encoding}: …{clean(around)}…"
        return BadInput(problem, "give the file a name in UTF-8, or work where that is used: LC_ALL=C.UTF-8")
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        remedy = "install it again, and see that there is memory enough (ulimit -v)"
        return MissingBackend(f"a library cannot be loaded: {describe(error)}", remedy)
    inside = raised_at(error) or _ours(error)
    said = describe(error) if raised_at(error) or not inside else f"{describe(error)} ({inside})"
    return UnexpectedError(said, "--verbose shows the trace; if it is not of your code, report it")


@contextmanager
def as_deploy_errors() -> Iterator[None]:
    """Lets out no exception but ours, each raised from what it was; an interruption stays one."""
    try:
        yield
    except DeployError:
        raise
    except SystemExit as error:  # of code that we call: nobody asked us to end
        raise UnexpectedError(describe(error), "--verbose shows the trace; let it raise an error instead") from error
    except Exception as error:
        raise as_error(error) from error


def raised_at(error: BaseException) -> str:
    """`FILE:LINE` of the innermost line of the user's code that it came through; empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return _shown(error.filename, error.lineno or 1)
    frames = [(frame.filename, number) for frame, number in _frames(error)]
    known = [(_rank(file), file, number) for file, number in frames]
    for wanted in (0, 1):  # rather the user's own file than a library of theirs
        inside = [(file, number) for rank, file, number in known if rank == wanted]
        if inside:
            return _shown(*inside[-1])
    return ""


def trace(error: BaseException) -> list[str]:
    """The lines of the whole traceback, with what it was raised from."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    return [_ESCAPES.sub("", line).expandtabs() for line in lines]


def _known(name: str | bytes | int | None) -> str:
    """A file as its user knows it: of our own locks and unfinished files, the folder that they are in."""
    path = Path(os.fsdecode(name)) if isinstance(name, (str, bytes)) else None
    if path is None or not path.is_absolute():
        try:
            os.getcwd()  # noqa: PTH109  # whether there is one
        except OSError:
            return "the working folder"
    if path is None:
        return "a file"
    inner = [each.parent for each in (path, *path.parents) if _INNER.fullmatch(each.name) or owner.read(each.name)]
    shown = inner[-1] if inner else path
    return "this folder" if shown == Path() else str(shown)


def _ours(error: BaseException) -> str:
    """`FILE:LINE` of the innermost line of ours."""
    own = [(file.filename, line) for file, line in _frames(error) if Path(file.filename).is_relative_to(_PACKAGE)]
    return clean(f"deploytool/{Path(own[-1][0]).relative_to(_PACKAGE)}:{own[-1][1]}") if own else ""


def _frames(error: BaseException) -> list[tuple[traceback.FrameSummary, int]]:
    steps = traceback.walk_tb(error.__traceback__)
    summaries = traceback.StackSummary.extract(steps, lookup_lines=False)
    return [(each, each.lineno or 1) for each in summaries]


def _rank(file: str) -> int:
    """0 for the user's own files, 1 for libraries they use, 2 for torch, what calls us, Python and ourselves."""
    path = Path(file)
    files = (getattr(sys.modules.get(name), "__file__", None) for name in ("torch", "typer"))
    aside = [_PACKAGE, *(Path(file).parent for file in files if file)]
    if file.startswith("<") or (any(path.is_relative_to(each) for each in aside) and not path.is_relative_to(_ZOO)):
        return 2
    if {"site-packages", "dist-packages"} & set(path.parts):
        return 1
    return 2 if path.is_relative_to(sysconfig.get_path("stdlib")) else 0


def _shown(file: str, line: int) -> str:
    path = Path(file)
    try:
        path = path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        path = Path(path.name)
    return clean(f"{path}:{line}")
