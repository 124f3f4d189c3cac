"""Checks that a value has the type that is declared for an option, and says in words what that type is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_WORDS: Mapping[Any, str] = {
    **{bool: "True or False", int: "an integer", float: "a number"},
    **{str: "a string", Path: "a path"},
}


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value has a type, with the types of what is in it.

    True and False are no numbers, a string is no sequence, and an integer that a float cannot hold is no float.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(accepts(each, value) for each in args)
    if origin is tuple:
        kinds = [args[0]] * len(value) if isinstance(value, tuple) and args[-1] is Ellipsis else args
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(accepts, kinds, value))
    if origin is Sequence:
        is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return is_list and all(accepts(args[0], each) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            accepts(args[0], key) and accepts(args[1], each) for key, each in value.items()
        )
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return isinstance(value, kind) and all(
            accepts(hints[each.name], getattr(value, each.name)) for each in fields(kind)
        )
    if kind is float and isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def words(kind: Any) -> str:
    """What a value of a type is called: `a number or a list [a number, …]`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(words(each) for each in args if each is not NoneType)
    if origin is tuple:
        inside = f"{words(args[0])}, …" if args[-1] is Ellipsis else ", ".join(map(words, args))
        return f"a tuple ({inside})"
    if origin is Sequence:
        return f"a list [{words(args[0])}, …]"
    if origin is Mapping:
        return f"a dict {{{words(args[0])}: {words(args[1])}, …}}"
    return _WORDS.get(kind, f"a {kind.__name__}")
