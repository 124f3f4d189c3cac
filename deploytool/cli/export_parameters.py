"""The options of `deploytool export` for typer, derived from the fields of `ExportOptions`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from deploytool.cli import completion, params
from deploytool.pipeline import metric_options
from deploytool.pipeline.export_options import DECLARATIONS, TYPES, ExportOptions
from deploytool.spec import Range

# parsers of the options that are written as text, and of those that can be given several times
_TEXT: Mapping[str, Callable[[str], Any]] = {
    "mean": partial(params.numbers, "--mean"),
    "std": partial(params.numbers, "--std"),
    "scale": params.scale,
    "resize": partial(params.side, "--resize"),
    "crop": partial(params.side, "--crop"),
    "max_drop": metric_options.margin_text,
}
_TEXTS: Mapping[str, Callable[[Sequence[str]], Any]] = {
    "inputs": params.tensors,
    "batch": params.batch,
    "sizes": params.sizes,
    "arguments": params.arguments,
    "forward": params.forward_arguments,
    "tolerance": params.tolerances,
    "floor": params.floors,
    "decode": params.decoding,
    "outputs": params.names,
    "precision": params.names,
    "keep_fp32": params.names,
    "keep": params.names,
    "targets": params.names,
}


def with_export_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replaces the parameter `options` in the signature of a command by one parameter for each field.

    typer reads that signature; `export_options` turns the values that it then passes into the object.
    """
    signature = inspect.signature(command, eval_str=True)
    options = [_parameter(field) for field in inspect.signature(ExportOptions).parameters.values()]
    own = [parameter for name, parameter in signature.parameters.items() if name != "options"]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return command


def export_options(given: Mapping[str, Any]) -> ExportOptions:
    """The options that the values of a command line stand for; raises BadInput for text that cannot be parsed."""
    values = {name: given[_parameter_name(name)] for name in DECLARATIONS}
    return ExportOptions(
        **{name: _parsed(name, value) for name, value in values.items() if value not in (None, [], ())}
    )


def _parsed(name: str, value: Any) -> Any:
    parse = _TEXT.get(name) or _TEXTS.get(name)
    if parse:
        return parse(value)
    return value.value if isinstance(value, Enum) else value


def _flag(name: str) -> str:
    return DECLARATIONS[name].flag or name.replace("_", "-")


def _parameter_name(name: str) -> str:
    return _flag(name).replace("-", "_")


def _parameter(field: inspect.Parameter) -> inspect.Parameter:
    """The parameter from which typer makes the option of a field."""
    declared = DECLARATIONS[field.name]
    option = typer.Option(
        f"--{_flag(field.name)}",
        help=declared.help,
        metavar=declared.metavar,
        min=declared.least,
        max=declared.most,
        show_default=declared.usual or True,
        rich_help_panel=declared.group,
        autocompletion=completion.target if field.name == "targets" else None,
    )
    kind: Any = _kind(field.name)
    name, default = _parameter_name(field.name), _default(field.default)
    return field.replace(name=name, default=default, annotation=Annotated[kind, option])


def _default(value: Any) -> Any:
    """A default as the command line writes it; None for a range, which an option only shows, and for no values."""
    return None if value == () or isinstance(value, Range) else value


def _kind(name: str) -> Any:
    """The type of an option on the command line."""
    hint, choices = TYPES[name], DECLARATIONS[name].choices
    if choices:
        enumeration: Any = Enum(name, {choice: choice for choice in choices}, type=str)  # type: ignore[misc]
        return enumeration | None
    if name in _TEXTS:
        return list[str] | None
    if Path in get_args(hint):
        return Path | None
    return hint if {hint, *get_args(hint)} & {bool, int, float} and name not in _TEXT else str | None
