"""Reads defaults for options from a configuration file: `deploytool.toml`, or `[tool.deploytool]` in pyproject.toml.

A table is named after a command, and its keys after the options of that command: `[export]`, `trt = true`. Paths are
relative to the file. The command line takes precedence. Options that lower safety are accepted only from a file that is
given with --config: a file that is found in the working folder, or above it, may have been written by anybody.
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

from deploytool.cli import console
from deploytool.errors import BadInput, MissingBackend

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

OWN_FILE, SHARED_FILE = "deploytool.toml", "pyproject.toml"
DEVICES = "devices"  # a table that is no command: the devices of a fleet
# options that run code, trust another key or server, or disable encryption
_UNSAFE = ("trust-code", "require-signature", "key", "plain-http", "ca", "python", "identity", "ssh-config")


@dataclass(frozen=True)
class Settings:
    """The content of a file: the options of each command; `named` is true if the file was given with --config."""

    file: Path
    tables: Mapping[str, Any]
    named: bool = False


def find(named: Path | None) -> Settings | None:
    """The settings of the named file, or of the nearest file in this folder or a parent; None if there is none.

    A file that is not named is ignored if another user (except root) owns it, or if everybody may write to it. Raises
    BadInput if the file is missing or is not valid TOML.
    """
    if named is not None:
        if not named.is_file():
            raise BadInput(f"there is no file {named}", "check the path after --config")
        return replace(_read(named) or Settings(named, {}), named=True)
    try:
        here = Path.cwd()
    except OSError:  # the working folder was deleted
        return None
    for folder in (here, *here.parents):
        for name in (OWN_FILE, SHARED_FILE):
            path = folder / name
            settings = _read(Path(name) if folder == here else path) if path.is_file() and _is_ours(path) else None
            if settings:
                return settings
    return None


def _is_ours(path: Path) -> bool:
    """Whether the file belongs to this user or root and is not writable by everybody; true without POSIX owners."""
    status = path.stat()
    return os.name != "posix" or (status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH)


def _read(file: Path) -> Settings | None:
    """The settings in a file; None for a pyproject.toml without [tool.deploytool]."""
    raw = file.read_bytes()
    if file.name == SHARED_FILE and b"tool.deploytool" not in raw and b"[tool]" not in raw:
        return None
    if tomllib is None:
        raise MissingBackend(f"{file} cannot be read: it needs Python 3.11", "remove the file, or use Python 3.11")
    try:
        content: Any = tomllib.loads(raw.decode())
    except ValueError as error:  # invalid TOML or invalid UTF-8
        raise BadInput(f"{file} is not valid TOML: {error}", "correct that line") from error
    except RecursionError:
        raise BadInput(f"{file} is nested too deeply", "use tables such as [export], with options in them") from None
    if file.name == SHARED_FILE:
        tool = content.get("tool")
        content = tool.get("deploytool") if isinstance(tool, Mapping) else None
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise BadInput(f"{file}: tool.deploytool is not a table", "write [tool.deploytool.export], then its options")
    return Settings(file, content)


def defaults(settings: Settings, context: typer.Context, commands: Iterable[str]) -> dict[str, Any]:
    """The values for the options of this command: the name of the parameter and its value.

    Raises BadInput for a table that is not a command, a key that is not an option, and a value of the wrong type.
    """
    known = sorted(commands)
    for name, table in settings.tables.items():
        if name == DEVICES:
            continue
        if name not in known:
            raise _unknown(settings.file, f"[{name}] is not a command", name, known)
        if not isinstance(table, Mapping):
            raise BadInput(f"{settings.file}: {name} is not a table", f"write [{name}], then its options")
    options = {name: param for param in context.command.params for name in _names(param)}
    types = kinds(context)
    values = {}
    for key, value in settings.tables.get(str(context.info_name), {}).items():
        name, location = key.replace("_", "-"), f"{settings.file}: [{context.info_name}] {key}"
        if name not in options:
            raise _unknown(settings.file, f"[{context.info_name}] has no option {key}", name, options)
        if name in _UNSAFE and not settings.named:
            problem = f"{location} lowers safety, and the file was not given with --config"
            raise BadInput(problem, f"give --config {settings.file}, or --{name} itself")
        param = options[name]
        converted = _value(location, types[str(param.name)], value, settings.file.parent)
        try:
            param.process_value(context, converted)
        except typer.BadParameter as error:
            problem = f"{location} = {value!r}: {console.without_exception(error.message)}"
            raise BadInput(problem, "see --help for valid values") from error
        values[str(param.name)] = converted
    return values


def _names(param: Any) -> list[str]:
    """The long names of an option without the dashes, except --config and --help; none for an argument."""
    names = [name.removeprefix("--") for name in param.opts if name.startswith("--")]
    return [name for name in names if name not in ("config", "help")]


def kinds(context: typer.Context) -> dict[str, Any]:
    """The type of each parameter of a command, without None."""
    found = {}
    for name, parameter in inspect.signature(context.command.callback or str).parameters.items():
        kind = parameter.annotation
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        found[name] = next(arg for arg in get_args(kind) if arg is not type(None)) if _is_optional(kind) else kind
    return found


def _is_optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _value(location: str, kind: Any, value: Any, folder: Path) -> Any:
    """A TOML value as typer gets it from the command line; raises BadInput if it has the wrong type."""
    if get_origin(kind) is list:
        if isinstance(value, Mapping):
            _refuse_table(location, value)
        items = value if isinstance(value, list) else [value]
        return [_value(location, get_args(kind)[0], item, folder) for item in items]
    if kind is bool and isinstance(value, bool):
        return value
    if kind is Path and isinstance(value, str) and value:
        return str(folder / os.path.expanduser(value))  # noqa: PTH111  # Path.expanduser raises without a home
    if kind is str and isinstance(value, list) and all(type(item) in (str, int, float) for item in value):
        return ",".join(map(str, value))
    accepted = {str: (str, int, float), int: (int,), float: (int, float)}.get(kind, ())
    if isinstance(value, accepted) and not isinstance(value, bool):
        return str(value) if kind is str else value
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [choice.value for choice in kind]
        if value in choices:
            return value
        raise BadInput(f"{location} = {value!r} is not a valid choice", f"choose from {', '.join(choices)}")
    names = {bool: "true or false", Path: "a path", str: "a string", int: "an integer", float: "a number"}
    expected = names.get(kind, "a valid value")
    raise BadInput(f"{location} = {value!r} is not {expected}", f"write {expected}")


def _refuse_table(location: str, table: Mapping[str, Any]) -> None:
    """Raises BadInput for a table where a list of strings is expected; shows the table as that list."""
    pairs = [f'"{name}={value}"' for name, value in table.items() if isinstance(value, (str, int, float))]
    remedy = f"[{', '.join(pairs)}]" if pairs else "a list of strings"
    raise BadInput(f"{location} = {table!r} is a table", f"write {remedy}")


def _unknown(file: Path, problem: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for an unknown table or key; the remedy suggests the most similar name."""
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.4)
    return BadInput(f"{file}: {problem}", f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}")
