"""Exports a PyTorch model to TorchScript, ONNX, FP16 and TensorRT, and checks every file against the original."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.api import Run, export
    from deploytool.results.sweep import Sweep
    from deploytool.sweeps.function import sweep

__all__ = ["Run", "Sweep", "export", "sweep"]
_MODULES = {"Sweep": "deploytool.results.sweep", "sweep": "deploytool.sweeps.function"}  # the others: deploytool.api


def __getattr__(name: str) -> object:
    """The public API, imported on first use: a device imports this package too, without the libraries of the host."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "deploytool.api")), name)
