"""Binds inputs to the parameters of `forward`: by name where possible, else by position."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from deploytool.errors import BadInput

_DEFAULT_NAME = re.compile(r"input(_\d+)?")  # of an input that the user did not name
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

T = TypeVar("T")


@dataclass(frozen=True)
class BoundArguments:
    """The inputs passed by position, in order, and those passed by keyword (parameter: input).

    exact: whether inputs and parameters correspond one to one; if not, an exporter adds parameters with defaults.
    undeclared: the inputs that a `**kwargs` parameter takes, so that nothing but a run shows whether their names fit.
    """

    positional: tuple[str, ...]
    keywords: Mapping[str, str]
    exact: bool = True
    undeclared: tuple[str, ...] = ()

    def call(self, function: Callable[..., Any], inputs: Mapping[str, T]) -> Any:
        """Calls the function with these inputs."""
        positional = (inputs[name] for name in self.positional)
        return function(*positional, **{parameter: inputs[name] for parameter, name in self.keywords.items()})


def bind(forward: Callable[..., Any], inputs: Sequence[str]) -> BoundArguments:
    """Binds inputs with these names to the parameters of `forward`.

    Default names such as `input_1` bind to the remaining parameters in order; so does the only input of a function
    with one parameter. A `**kwargs` parameter takes any name. Raises BadInput with the list of parameters for any other
    name that is not a parameter.
    """
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # functions in C have no signature
        return BoundArguments(tuple(inputs), {}, exact=False)
    positional = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    keywords = {parameter.name for parameter in parameters if parameter.kind in _KEYWORD}
    has_var_positional = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    has_var_keyword = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    matching = [name for name in inputs if name in keywords]
    is_only = len(inputs) == 1 and len(parameters) == 1
    by_name = has_var_keyword and not has_var_positional and not positional
    if not matching and not by_name and (has_var_positional or is_only or not positional):
        return BoundArguments(tuple(inputs), {}, exact=is_only and bool(positional))
    accepted = {name for name in inputs if name in keywords or has_var_keyword or _DEFAULT_NAME.fullmatch(name)}
    unknown = [name for name in inputs if name not in accepted]
    if unknown:
        single = len(keywords) < 2
        names = ", ".join(dict.fromkeys((*positional, *keywords))) if single else ", ".join(_names(parameters))
        raise BadInput(f"forward has no parameter {unknown[0]}", f"name the inputs as forward does: {names}")
    bound = _assign(inputs, positional, matching, has_var_keyword=has_var_keyword)
    undeclared = tuple(name for parameter, name in bound.keywords.items() if parameter not in keywords)
    return replace(bound, exact=len(parameters) == len(inputs), undeclared=undeclared)


def _names(parameters: Sequence[inspect.Parameter]) -> list[str]:
    return [parameter.name for parameter in parameters if parameter.kind in (*_POSITIONAL, *_KEYWORD)]


def _assign(
    inputs: Sequence[str], positional: Sequence[str], matching: Sequence[str], *, has_var_keyword: bool
) -> BoundArguments:
    """Assigns matching inputs to their parameters and the others to the remaining ones.

    Arguments are passed by position up to the first parameter without an input, by keyword after it.
    """
    assigned = {name: name for name in matching}
    remaining = [name for name in positional if name not in assigned]
    for name in inputs:
        if name in assigned.values():
            continue
        if remaining and (_DEFAULT_NAME.fullmatch(name) or not has_var_keyword):
            assigned[remaining.pop(0)] = name
        else:
            assigned[name] = name
    by_position = []
    for parameter in positional:
        if parameter not in assigned:
            break
        by_position.append(assigned.pop(parameter))
    return BoundArguments(tuple(by_position), assigned)
