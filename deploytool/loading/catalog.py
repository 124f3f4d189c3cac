"""Finds a model by name or by a reference to its factory, without importing torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from deploytool.data import preprocess
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput
from deploytool.loading import factory
from deploytool.loading.hub import doors
from deploytool.spec import INPUT_OPTION, Model, Option, Preprocessing, SourceKind, Tensor

_SIMILARITY = 0.8  # difflib ratio; at 0.5 resnet18 matched mobilenet_v1
_DEFINITION = "deploytool.loading.graph.definition"
_SAVED = (".pt", ".pth", ".pt2", ".safetensors", ".ckpt", ".bin")  # files of torch, which name no model
_MAX_STEM_BYTES = 100  # of a file name, in the name of its model
GROUP = "deploytool.models"  # entry point group by which other packages add models; each names a sequence of Model


def models() -> tuple[Model, ...]:
    """All models of the zoo in the order of its table, then those of entry points."""
    return (*_zoo(), *_from_entry_points())


def _zoo() -> tuple[Model, ...]:
    factory.mount_zoo()
    zoo: tuple[Model, ...] = import_module(f"{factory.ZOO}.specs").ZOO
    return zoo


def _from_entry_points() -> tuple[Model, ...]:
    """The models of other packages; raises BadInput with the entry point that cannot be loaded."""
    return tuple(model for point in entry_points(group=GROUP) for model in _load_entry_point(point))


def _load_entry_point(point: EntryPoint) -> Sequence[Model]:
    try:
        models: Sequence[Model] = point.load()
    except Exception as error:  # third-party code may raise anything
        problem = f"the models of {point.value} cannot be loaded: {type(error).__name__}: {error}"
        raise BadInput(problem, "fix or uninstall the package that adds them") from error
    return models


def find(
    name: str,
    inputs: Sequence[Tensor] = (),
    arguments: Mapping[str, Option] | None = None,
    *,
    trust_code: bool = False,
) -> Model:
    """Finds the model named `name`, or the user's model: `file.py:function`, `module:function` or `model.onnx`.

    A reference `hf:NAME` or `timm:NAME` finds a model of that hub, for which its library is imported.

    inputs: the input tensors; required for a user's code, an override for others. arguments: passed to the factory.
    trust_code: whether a model of a hub may run code of its own.
    Raises BadInput for an unknown name, with the closest one, for a user's code without declared inputs, and for a file
    that is not a valid graph.
    """
    if factory.kind(name) is SourceKind.GRAPH:
        return _given_graph(name, inputs, arguments or {})
    if doors.is_hub(name):
        model = doors.describe(name, arguments or {}, trust_code=trust_code)
    else:
        model = _user_model(name, inputs) if ":" in name else _by_name(name)
    if inputs:
        model = preprocess.resolve(
            replace(model, inputs=tuple(inputs), asked=(INPUT_OPTION,)), StatedPreprocessing(), {}
        )
    options = arguments or {}
    return replace(model, options={**model.options, **options}, asked=(*model.asked, *options))


def _by_name(name: str) -> Model:
    """Finds a model; case, dashes, and underscores at either end do not matter."""
    normalized = name.strip().lower().replace("-", "_").strip("_")
    by_name = {model.name: model for model in _zoo()}
    if normalized in by_name:
        return by_name[normalized]
    by_name |= {model.name: model for model in _from_entry_points()}
    if normalized in by_name:
        return by_name[normalized]
    similar = difflib.get_close_matches(normalized, by_name, 1, cutoff=_SIMILARITY)
    raise BadInput(f"there is no model {name!r}", _hint(name, similar))


def _hint(name: str, similar: Sequence[str]) -> str:
    """The remedy for an unknown name: the factories of a file, or the closest name."""
    if name.endswith(".py"):
        return f"write FILE:FACTORY, where FACTORY returns the model: {factory.suggest_references(name)}"
    if Path(name).suffix in _SAVED and Path(name).is_file():
        return "weights go to --weights, and their model is FILE.py:FACTORY; a whole model can be an ONNX file"
    if similar:
        return f"did you mean {similar[0]}?"
    return "`deploytool models` lists all; a model of your own is FILE.py:FACTORY or package.module:FACTORY"


def _given_graph(path: str, inputs: Sequence[Tensor], arguments: Mapping[str, Option]) -> Model:
    """The model in an ONNX file, whose reader imports onnx."""
    if arguments:
        raise BadInput(f"{path} is a graph, and takes no argument {min(arguments)}", "leave --arg out")
    _check_printable(path)
    model: Model = import_module(_DEFINITION).read(Path(path), _short(Path(path).stem) or "model", inputs)
    asked = (INPUT_OPTION,) if inputs else ()
    return preprocess.resolve(replace(model, asked=asked), StatedPreprocessing(), {})


def _check_printable(reference: str) -> None:
    if not reference.isprintable() or reference != reference.encode("utf-8", "ignore").decode():
        raise BadInput(f"{reference!r} is not printable UTF-8", "rename the file")


def _short(stem: str) -> str:
    """The start of a file name: the name of the model names a folder."""
    return stem.encode()[:_MAX_STEM_BYTES].decode("utf-8", "ignore")


def _user_model(reference: str, inputs: Sequence[Tensor]) -> Model:
    if not inputs:
        raise BadInput(f"no inputs are declared for {reference}", "declare them: --input 3x224x224")
    _check_printable(reference)
    factory.source_files(reference)  # raises BadInput if there are none
    path_or_module, _, function = reference.rpartition(":")
    is_file = path_or_module.endswith(".py")
    stem = Path(path_or_module).stem if is_file else path_or_module.rpartition(".")[2]
    return Model(f"{_short(stem)}_{function}", reference, outputs=(), preprocessing=Preprocessing(assumed=True))
