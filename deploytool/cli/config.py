"""What a team repeats, from a file: `deploytool.toml`, or `[tool.deploytool]` in a pyproject.toml.

A table is named after a command, and its keys after the options of that command: `[export]`, `trt = true`. Paths are
relative to the file. The command line wins. What lowers safety is taken from a file only if one names it: a file that
lies in a folder one happens to stand in, or above it, may be anybody's.
"""

from __future__ import annotations

import difflib
import inspect
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from deploytool.errors import BadInput, MissingBackend

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

OWN, SHARED = "deploytool.toml", "pyproject.toml"
# options that have code run, believe another key or server, or send without encryption
_SAFETY = ("trust-code", "require-signature", "key", "plain-http", "ca", "python", "identity", "ssh-config")


@dataclass(frozen=True)
class Settings:
    """What a file says: for each command, the values of its options; whether it was named, and not only found."""

    file: Path
    tables: Mapping[str, Any]
    named: bool = False


def find(named: Path | None) -> Settings | None:
    """The settings of the file that was named, or else of the nearest in this folder or one above it.

    A file that is only found counts if it is ours or the system's and not everybody may write to it. Raises BadInput if
    the file is missing or no TOML.
    """
    if named is not None:
        if not named.is_file():
            raise BadInput(f"there is no file {named}", "check the path after --config")
        return replace(_read(named) or Settings(named, {}), named=True)
    try:
        here = Path.cwd()
    except OSError:  # it is gone
        return None
    for folder in (here, *here.parents):
        for name in (OWN, SHARED):
            path = folder / name
            found = _read(Path(name) if folder == here else path) if path.is_file() and _is_ours(path) else None
            if found:
                return found
    return None


def _is_ours(path: Path) -> bool:
    """Whether nobody else can have written a file: where there are owners, it is ours or the system's."""
    found = path.stat()
    return os.name != "posix" or (found.st_uid in (0, os.geteuid()) and not found.st_mode & stat.S_IWOTH)


def _read(file: Path) -> Settings | None:
    """What a file says; None if it is a pyproject.toml that says nothing to us."""
    raw = file.read_bytes()
    if file.name == SHARED and b"tool.deploytool" not in raw and b"[tool]" not in raw:
        return None
    if tomllib is None:
        raise MissingBackend(f"{file} cannot be read: that takes Python 3.11", "take the file away, or another Python")
    try:
        content: Any = tomllib.loads(raw.decode())
    except ValueError as error:  # no TOML, or no UTF-8
        raise BadInput(f"{file} is no TOML: {error}", "mend that line") from error
    except RecursionError:
        raise BadInput(f"{file} is nested too deep", "write [export] and the like, and options below") from None
    if file.name == SHARED:
        tool = content.get("tool")
        content = tool.get("deploytool") if isinstance(tool, Mapping) else None
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise BadInput(f"{file}: tool.deploytool is no table", "write [tool.deploytool.export], and its options below")
    return Settings(file, content)


def defaults(settings: Settings, context: typer.Context, commands: Iterable[str]) -> dict[str, Any]:
    """The values for the options of this command, by the names of its parameters.

    Raises BadInput for a table that is no command, a key that is no option, and a value of the wrong type.
    """
    known = sorted(commands)
    for name, table in settings.tables.items():
        if name not in known:
            raise _unknown(settings.file, f"[{name}] is no command", name, known)
        if not isinstance(table, Mapping):
            raise BadInput(f"{settings.file}: {name} is no table", f"write [{name}], and its options below")
    options = {name: param for param in context.command.params for name in _names(param)}
    kinds = _kinds(context)
    found = {}
    for key, value in settings.tables.get(str(context.info_name), {}).items():
        name = key.replace("_", "-")
        if name not in options:
            raise _unknown(settings.file, f"[{context.info_name}] has no option {key}", name, options)
        if name in _SAFETY and not settings.named:
            problem = f"{settings.file}: [{context.info_name}] {key} lowers safety, and nobody named this file"
            raise BadInput(problem, f"name it with --config {settings.file}, or give --{name} itself")
        param, place = options[name], f"{settings.file}: [{context.info_name}] {key}"
        plain = _value(place, kinds[str(param.name)], value, settings.file.parent)
        try:
            param.process_value(context, plain)
        except typer.BadParameter as error:
            raise BadInput(f"{place} = {value!r}: {error.message}", "write what --help says") from error
        found[str(param.name)] = plain
    return found


def _names(param: Any) -> list[str]:
    """The long names of an option, an argument has none; `--config` itself is not asked for in a file."""
    names = [name.removeprefix("--") for name in param.opts if name.startswith("--")]
    return [name for name in names if name not in ("config", "help")]


def _kinds(context: typer.Context) -> dict[str, Any]:
    """The type of each parameter of a command, None left out."""
    found = {}
    for name, parameter in inspect.signature(context.command.callback or str).parameters.items():
        kind = parameter.annotation
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        found[name] = next((one for one in get_args(kind) if one is not type(None)), kind) if _is_union(kind) else kind
    return found


def _is_union(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _value(place: str, kind: Any, value: Any, folder: Path) -> Any:
    """The value as the command line would give it; raises BadInput if it is of another type."""
    if get_origin(kind) is list:
        each = value if isinstance(value, list) else [value]
        return [_value(place, get_args(kind)[0], one, folder) for one in each]
    if kind is bool and isinstance(value, bool):
        return value
    if kind is Path and isinstance(value, str):
        return str(folder / os.path.expanduser(value))  # noqa: PTH111  # which takes one without a home as it is
    if kind is str and isinstance(value, list) and all(type(one) in (str, int, float) for one in value):
        return ",".join(map(str, value))
    wanted = {str: (str, int, float), int: (int,), float: (int, float)}.get(kind, ())
    if isinstance(value, wanted) and not isinstance(value, bool):
        return str(value) if kind is str else value
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value in [one.value for one in kind]:
            return value
        raise BadInput(f"{place} = {value!r} is no choice", f"choose from {', '.join(one.value for one in kind)}")
    words = {bool: "true or false", Path: "a path", str: "a text", int: "a whole number", float: "a number"}
    raise BadInput(f"{place} = {value!r} is not {words.get(kind, 'what it should be')}", f"write {words.get(kind)}")


def _unknown(file: Path, what: str, name: str, known: Iterable[str]) -> BadInput:
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.4)
    return BadInput(f"{file}: {what}", f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}")
