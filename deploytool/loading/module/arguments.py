"""Binds inputs to the parameters of `forward`: by name where possible, else by position; lists and dicts by parts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from deploytool.errors import BadInput
from deploytool.spec import Option

_DEFAULT_NAME = re.compile(r"input(_\d+)?")  # of an input that the user did not name
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

T = TypeVar("T")


@dataclass(frozen=True)
class BoundArguments:
    """The inputs passed by position, in order, and those passed by keyword (parameter: input).

    exact: whether inputs and parameters correspond one to one; if not, an exporter adds parameters with defaults.
    undeclared: the inputs that a `**kwargs` parameter takes, so that nothing but a run shows whether their names fit.
    parts: the inputs that form one argument, a list or dict, by its name; the key or position of each is in its name.
    tuples: those of `parts` that `forward` declares as tuples.
    constants: keyword arguments that are no inputs.
    """

    positional: tuple[str, ...]
    keywords: Mapping[str, str]
    exact: bool = True
    undeclared: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tuples: frozenset[str] = frozenset()
    constants: Mapping[str, Option] = field(default_factory=dict)

    def call(self, function: Callable[..., Any], inputs: Mapping[str, T]) -> Any:
        """Calls the function with these inputs."""
        values: dict[str, Any] = dict(inputs)
        for name, members in self.parts.items():
            items = {member.removeprefix(f"{name}."): inputs[member] for member in members}
            values[name] = _nested(items, as_tuple=name in self.tuples)
        positional = [values[name] for name in self.positional]
        keywords = {parameter: values[name] for parameter, name in self.keywords.items()}
        return function(*positional, **keywords, **self.constants)


def bind(
    forward: Callable[..., Any], inputs: Sequence[str], constants: Mapping[str, Option] | None = None
) -> BoundArguments:
    """Binds inputs with these names, and arguments that are no inputs, to the parameters of `forward`.

    Default names such as `input_1` bind to the remaining parameters in order; so does the only input of a function
    with one parameter. A `**kwargs` parameter takes any name. Inputs such as `images.0` and `images.1`, or `batch.mask`
    form a list or dict for the parameter before the dot. Raises BadInput with the list of parameters for another name,
    and for list positions that are not 0, 1, 2, ….
    """
    parts, tuples = _parts(forward, inputs)
    members = {member: name for name, group in parts.items() for member in group}
    bound = _bind(forward, list(dict.fromkeys(members.get(name, name) for name in inputs)), constants or {})
    exact = bound.exact and not parts and not constants
    return replace(bound, parts=parts, tuples=tuples, constants=dict(constants or {}), exact=exact)


def _parts(forward: Callable[..., Any], inputs: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """The inputs that form a list or dict, by parameter, and the parameters that are declared as tuples."""
    try:
        parameters = inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return {}, frozenset()
    parts: dict[str, tuple[str, ...]] = {}
    for name in inputs:
        whole, dot, _ = name.partition(".")
        if dot and name not in parameters and whole in parameters and parameters[whole].kind in _KEYWORD:
            parts[whole] = (*parts.get(whole, ()), name)
    for whole, members in parts.items():
        if whole in inputs:
            raise BadInput(f"{whole} is an input, and {members[0]} a part of it", "declare one of them")
        positions = [member.split(".")[1] for member in members]
        if any(map(str.isdecimal, positions)) and list(dict.fromkeys(positions)) != _positions(positions):
            problem = f"the parts of {whole} are {', '.join(members)}"
            raise BadInput(problem, f"number them from 0 in order: {whole}.0, {whole}.1")
    tuples = (name for name in parts if re.match(r"(typing\.)?[Tt]uple\b", _annotation(parameters[name])))
    return parts, frozenset(tuples)


def _positions(positions: Sequence[str]) -> list[str]:
    return [str(number) for number in range(len(set(positions)))]


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "") or str(annotation)


def _nested(items: Mapping[str, Any], *, as_tuple: bool) -> Any:
    """The list, tuple or dict whose items have these names; a name with dots leads into an inner one."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in items.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = value
    values = {
        first: group[""] if list(group) == [""] else _nested(group, as_tuple=as_tuple)
        for first, group in groups.items()
    }
    if all(map(str.isdecimal, values)):
        return tuple(values.values()) if as_tuple else list(values.values())
    return values


def _bind(forward: Callable[..., Any], inputs: Sequence[str], constants: Mapping[str, Option]) -> BoundArguments:
    """Binds inputs to parameters, of which `constants` are taken."""
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # functions in C have no signature
        return BoundArguments(tuple(inputs), {}, exact=False)
    positional = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    keywords = {parameter.name for parameter in parameters if parameter.kind in _KEYWORD} - set(constants)
    has_var_positional = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    has_var_keyword = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    if not has_var_keyword:
        _check_known(constants, parameters)
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
    bound = _assign(inputs, positional, matching, constants, has_var_keyword=has_var_keyword)
    undeclared = tuple(name for parameter, name in bound.keywords.items() if parameter not in keywords)
    return replace(bound, exact=len(parameters) == len(inputs), undeclared=undeclared)


def _check_known(constants: Mapping[str, Option], parameters: Sequence[inspect.Parameter]) -> None:
    names = _names(parameters)
    unknown = next((name for name in constants if name not in names), None)
    if unknown:
        remedy = f"its parameters are: {', '.join(names)}"
        raise BadInput(f"forward has no parameter {unknown}, which --forward sets", remedy)


def _names(parameters: Sequence[inspect.Parameter]) -> list[str]:
    return [parameter.name for parameter in parameters if parameter.kind in (*_POSITIONAL, *_KEYWORD)]


def _assign(
    inputs: Sequence[str],
    positional: Sequence[str],
    matching: Sequence[str],
    constants: Mapping[str, Option],
    *,
    has_var_keyword: bool,
) -> BoundArguments:
    """Assigns matching inputs to their parameters and the others to the remaining ones.

    Arguments are passed by position up to the first parameter without an input, by keyword after it.
    """
    assigned = {name: name for name in matching}
    remaining = [name for name in positional if name not in assigned and name not in constants]
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
