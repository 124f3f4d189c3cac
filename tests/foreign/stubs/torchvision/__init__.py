"""A stand-in for torchvision in the environment of the sweep, for timm, whose models import names of it but use none.

Every submodule exists, and every name in it is a class of no use. `torchvision.models` is left out: timm does without.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.0.0"


class _Names(type):
    """Classes whose attributes are their own names, as the members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(ModuleType):
    """A module in which every name is a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Finder:
    """Finds every submodule of torchvision but `models`."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith(f"{__name__}.") or name.startswith(f"{__name__}.models"):
            return None
        return ModuleSpec(name, cls, is_package=True)  # type: ignore[arg-type]  # a class serves as its own loader

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        return


sys.meta_path.insert(0, _Finder)
transforms = _Module(f"{__name__}.transforms")
