"""Finds the module that serves a hub reference, such as `hf:ORG/NAME`; only its use imports the hub's library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from deploytool.errors import BadInput, MissingBackend
from deploytool.spec import Model, Option

HUBS = {"hf": "huggingface", "timm": "timm"}  # prefix of a reference: module in this package
_LIBRARIES = {"hf": ("transformers", "huggingface_hub"), "timm": ("timm",)}
_MAX_NAME = 100  # characters of a model's name, which names a folder


@dataclass(frozen=True)
class HubModule:
    """A module that a hub's library made, and remarks about its weights."""

    module: Any
    remarks: tuple[str, ...] = ()


class Door(Protocol):
    """The functions of a module of this package that serves a hub."""

    def describe(self, name: str, arguments: Mapping[str, Option], *, trust_code: bool) -> Model:
        """The definition: inputs, preprocessing and classes from the model's configuration.

        Raises BadInput for a model that is not on this machine, and for one whose configuration is not understood.
        """

    def make(self, name: str, arguments: Mapping[str, Option]) -> HubModule:
        """The module with its weights; raises BadInput as `describe` does."""

    def files(self, name: str) -> tuple[Path, ...]:
        """The local files that the model consists of."""

    def folder(self, name: str) -> Path | None:
        """The folder of these files; None if the model consists of code of its library only."""


def is_hub(reference: str) -> bool:
    """Whether a reference names a model of a hub."""
    prefix, colon, name = reference.partition(":")
    return bool(colon and name) and prefix in HUBS


def describe(reference: str, arguments: Mapping[str, Option], *, trust_code: bool) -> Model:
    """The definition of the model that a reference names."""
    door, name = _door(reference)
    return door.describe(name, arguments, trust_code=trust_code)


def make(reference: str, arguments: Mapping[str, Option]) -> HubModule:
    """The module that a reference names, with its weights."""
    door, name = _door(reference)
    return door.make(name, arguments)


def factory(reference: str) -> Callable[..., Any]:
    """A function that makes the module from keyword arguments, like a factory of the user."""

    def build(**arguments: Option) -> Any:
        return make(reference, arguments).module

    return build


def files(reference: str) -> tuple[Path, ...]:
    """The local files of the model that a reference names."""
    door, name = _door(reference)
    return door.files(name)


def folder(reference: str) -> Path | None:
    """The folder of these files."""
    door, name = _door(reference)
    return door.folder(name)


def model_name(name: str) -> str:
    """The name of a model: the last part of its name in the hub, in characters that a folder may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name.rstrip("/").rpartition("/")[2]).strip("._")[:_MAX_NAME] or "model"


def is_path(name: str) -> bool:
    """Whether the name of a model is that of a folder."""
    return name.startswith((".", "/", "~"))


def public_reference(reference: str) -> str:
    """The reference without the folders above a folder that it names."""
    prefix, _, name = reference.partition(":")
    return f"{prefix}:{model_name(str(Path(name).resolve()))}" if is_path(name) else reference


def check_arguments(reference: str, arguments: Mapping[str, Option], known: Mapping[str, str]) -> None:
    """Raises BadInput for an argument that is not one of `known` (name: what it is)."""
    unknown = next((name for name in arguments if name not in known), None)
    if unknown is not None:
        remedy = f"use one of {', '.join(f'{name} ({what})' for name, what in known.items())}"
        raise BadInput(f"{reference} takes no --arg {unknown}", remedy)


def _door(reference: str) -> tuple[Door, str]:
    prefix, _, name = reference.partition(":")
    try:
        return cast("Door", import_module(f"deploytool.loading.hub.{HUBS[prefix]}")), name
    except ImportError as error:
        reason = " ".join(str(error).split())
        missing = (error.name or "").partition(".")[0]
        problem = f"{reference} needs {' and '.join(_LIBRARIES[prefix])}: {reason}"
        remedy = "pip install 'deploytool[hub]'" if missing in (*_LIBRARIES[prefix], "") else f"install {missing}"
        raise MissingBackend(problem, remedy) from error
