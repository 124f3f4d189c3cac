"""Which input goes to which parameter of `forward`: by name where a name is one of them, else in their order."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from deploytool.errors import BadInput

_UNNAMED = re.compile(r"input(_\d+)?")  # what an input is called that nobody gave a name
_ONE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

T = TypeVar("T")


@dataclass(frozen=True)
class BoundArguments:
    """The inputs that are passed by position, in that order, and those passed by keyword: parameter → input.

    They are `exact` if each has a parameter of its own, and there is none besides: exporters fill up what is left out.
    """

    placed: tuple[str, ...]
    named: Mapping[str, str]
    exact: bool = True

    def call(self, function: Callable[..., Any], given: Mapping[str, T]) -> Any:
        """What the function gives for these inputs."""
        return function(
            *(given[name] for name in self.placed), **{parameter: given[name] for parameter, name in self.named.items()}
        )


def bind(forward: Callable[..., Any], inputs: Sequence[str]) -> BoundArguments:
    """How inputs of these names are passed to `forward`.

    Raises BadInput, and lists the parameters, for a name that is none of them; names like `input_1`, which nobody
    gave, take the parameters that are left, and so does the only input of a function of one parameter.
    """
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # a function of C has no signature
        return BoundArguments(tuple(inputs), {}, exact=False)
    single = [each.name for each in parameters if each.kind in _ONE]
    known = {each.name for each in parameters if each.kind in _NAMED}
    starred = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    free = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    hits = [name for name in inputs if name in known]
    alone = len(inputs) == 1 and len(parameters) == 1
    if not hits and (starred or alone or not single):
        return BoundArguments(tuple(inputs), {}, exact=alone and bool(single))
    lost = [name for name in inputs if name not in known and not free and not _UNNAMED.fullmatch(name)]
    if lost:
        names = ", ".join(dict.fromkeys((*single, *known))) if len(known) < 2 else ", ".join(_order(parameters))
        raise BadInput(f"forward has no parameter {lost[0]}", f"name the inputs as forward does: {names}")
    found = _assigned(inputs, [*single], hits, free=free)
    return replace(found, exact=len(parameters) == len(inputs))


def _order(parameters: Sequence[inspect.Parameter]) -> list[str]:
    return [each.name for each in parameters if each.kind in (*_ONE, *_NAMED)]


def _assigned(inputs: Sequence[str], single: Sequence[str], hits: Sequence[str], *, free: bool) -> BoundArguments:
    """Named inputs at their parameters, unnamed ones at those that are left; by position as far as there is no gap."""
    at = {name: name for name in hits}
    left = [name for name in single if name not in at]
    for name in inputs:
        if name in at.values():
            continue
        if left and (_UNNAMED.fullmatch(name) or not free):
            at[left.pop(0)] = name
        else:
            at[name] = name
    placed = []
    for parameter in single:
        if parameter not in at:
            break
        placed.append(at.pop(parameter))
    return BoundArguments(tuple(placed), at)
