"""The weights file of a run: the weights, with the definition they belong to; read here without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import safe_open

from deploytool import plain
from deploytool.spec import Model

_FLOATS = ("F16", "F32", "F64")  # what numpy has


def definition(path: Path) -> Model:
    """The definition that a weights file belongs to."""
    with safe_open(path, framework="numpy") as file:
        return plain.decode(Model, json.loads(file.metadata()["model"]))


def names(path: Path) -> list[str]:
    """The names of all weights."""
    with safe_open(path, framework="numpy") as file:
        return list(file.keys())


def state(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The floating-point weights by name, those left out that numpy has no type for."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys() if file.get_slice(name).get_dtype() in _FLOATS}  # noqa: SIM118  # it is no mapping
