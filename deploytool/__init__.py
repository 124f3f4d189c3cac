"""Turns a PyTorch model definition into files an edge device can run, and proves that they are right and faster."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.api import Run, export

__all__ = ["Run", "export"]


def __getattr__(name: str) -> object:
    """What the road offers, loaded when first asked for: a device imports this package too, and pays for nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("deploytool.api"), name)
