"""Defines a model from a given ONNX file: its inputs, their types and dynamic dimensions, and where the batch is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from deploytool.errors import BadInput
from deploytool.loading.graph import batch_axis, structure, token_bounds, widening
from deploytool.loading.graph.batch_axis import Dimensions
from deploytool.rewrites.graph import storage
from deploytool.spec import BATCH, DTYPES, Fill, GivenGraph, GivenTensor, Model, Preprocessing, Tensor

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")  # characters that TensorRT or file formats may not support in names
_HALF, _DOUBLE = "float16", "float64"
_NO_WORD = re.compile(r"\W")
_DEFAULT_NAME = re.compile(r"input(_\d+)?")  # of an input that the user did not name


@dataclass(frozen=True)
class _Input:
    """An input as the file declares it."""

    name: str
    dimensions: Dimensions
    dtype: str


def read(path: Path, name: str, declared: Sequence[Tensor]) -> Model:
    """The model that a file defines; `declared` are the inputs that the user states, in any number.

    Raises BadInput for a file that is not a valid graph, and for an input that no stage supports.
    """
    model = storage.load_structure(path)
    structure.check(model, str(path))
    found = [_input(value, str(path)) for value in structure.inputs(model.graph)]
    for value in model.graph.output:
        _check_kind(value, "output", str(path))
    declared_outputs = [dimensions(value) for value in model.graph.output]
    double = widening.is_double(model)
    axes, batch = batch_axis.of_inputs([tensor.dimensions for tensor in found], declared_outputs)
    given = tuple(
        GivenTensor(tensor.name, axis, half=tensor.dtype == _HALF, double=double and tensor.dtype == _DOUBLE)
        for tensor, axis in zip(found, axes, strict=True)
    )
    bounds = token_bounds.find(model.graph)
    names = _unique_names([tensor.name for tensor in found], others=[value.name for value in model.graph.output])
    inputs = tuple(
        _tensor(tensor, place, name, bounds.get(tensor.name))
        for tensor, place, name in zip(found, given, names, strict=True)
    )
    batch_names = batch_axis.names([tensor.dimensions for tensor in found])
    outputs = tuple(
        GivenTensor(
            *(value.name, batch_axis.of_output(known, batch_names)),
            half=_is_of(value, widening.HALF),
            double=double and _is_of(value, widening.DOUBLE),
        )
        for value, known in zip(model.graph.output, declared_outputs, strict=True)
    )
    opset, half = structure.opset(model, str(path)), widening.is_half(model)
    quantised = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    graph = GivenGraph(given, outputs, batch, opset, half, quantised, double)
    stated = _with_declared(inputs, given, declared, str(path))
    return Model(name, str(path), inputs=stated, outputs=(), preprocessing=Preprocessing(assumed=True), given=graph)


def output_names(model: Model) -> list[str]:
    """The names of all outputs of the file in the model."""
    assert model.given is not None
    names = [place.name for place in model.given.outputs]
    others = [place.name for place in model.given.inputs]
    return _unique_names(names, others, [tensor.name for tensor in model.inputs])


def _unique_names(names: Sequence[str], others: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names with characters replaced that files and libraries may not support, each unique and not taken.

    A name that needs no change stays; no new name is one that another input or output of the file has (`others`).
    """
    unique: list[str] = []
    for name in names:
        safe = preferred = _UNSAFE.sub("_", name) or "_"
        number = 2
        while safe in unique or safe in taken or (safe != name and safe in (*names, *others)):
            safe, number = f"{preferred}_{number}", number + 1
        unique.append(safe)
    return unique


def dimensions(value: onnx.ValueInfoProto) -> Dimensions | None:
    """The dimensions of a tensor; None if even their number is unknown."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else size.dim_param.replace("?", "")
        for size in value.type.tensor_type.shape.dim
    )


def _input(value: onnx.ValueInfoProto, file: str) -> _Input:
    """An input of the file; raises BadInput for a type that cannot be the input of a model."""
    _check_kind(value, "input", file)
    if not value.type.HasField("tensor_type"):
        raise BadInput(f"{file}: the input {value.name} has no type", "export the model with tensors as its inputs")
    element = value.type.tensor_type.elem_type
    dtype = dtype_name(element)
    if dtype not in DTYPES:
        kind = TensorProto.DataType.Name(element).lower() if element in TensorProto.DataType.values() else str(element)
        problem = f"{file}: the input {value.name} is of {kind}"
        remedy = f"export the model with inputs of {', '.join(DTYPES)}"
        raise BadInput(problem, widening.FROM_BFLOAT16 if element == TensorProto.BFLOAT16 else remedy)
    known = dimensions(value)
    if known is None:
        raise BadInput(f"{file}: the input {value.name} has no shape", "export the model with shapes of its inputs")
    if any(size.HasField("dim_value") and size.dim_value == 0 for size in value.type.tensor_type.shape.dim):
        raise BadInput(f"{file}: the input {value.name} is empty: a dimension is 0", "export the model without it")
    return _Input(value.name, known, dtype)


def _check_kind(value: onnx.ValueInfoProto, what: str, file: str) -> None:
    """Raises BadInput for an input or output that is a sequence, a map, an optional or a sparse tensor."""
    kind = value.type.WhichOneof("value")
    if kind and kind != "tensor_type":
        problem = f"{file}: the {what} {value.name} is not a tensor but of the kind {kind.removesuffix('_type')}"
        raise BadInput(problem, f"export the model with tensors as its {what}s")


def dtype_name(element: int) -> str:
    """The name of an element type in numpy; empty if there is none."""
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)
    except (KeyError, TypeError, ValueError):
        return ""


def _tensor(found: _Input, place: GivenTensor, name: str, below: int | None) -> Tensor:
    """The input of the model for that of the file: the batch first, and dynamic dimensions as words."""
    sizes = [size or f"{name}_{axis}" if isinstance(size, str) else size for axis, size in enumerate(found.dimensions)]
    rest = [size for axis, size in enumerate(sizes) if axis != place.batch_axis]
    shape = (BATCH, *(size if isinstance(size, int) else _word(size) for size in rest))
    dtype = "float32" if place.half or place.double else found.dtype
    bound = below or (256 if dtype == "uint8" else Tensor.below)
    return Tensor(name, shape, dtype, bound, _fill(name, dtype))


def _fill(name: str, dtype: str) -> Fill:
    """How an input is drawn, from its name: masks of padding and positions are no random numbers."""
    if np.dtype(dtype).kind == "f":
        return Fill.RANDOM
    if "mask" in name.lower():
        return Fill.MASK
    return Fill.RANGE if "position_ids" in name.lower() else Fill.RANDOM


def _is_of(value: onnx.ValueInfoProto, element: int) -> bool:
    return bool(value.type.tensor_type.elem_type == element)


def _word(name: str) -> str:
    """A name of a dimension as a word that `--size` accepts."""
    word = _NO_WORD.sub("_", name)
    if not word.isascii() or not word[0].isalpha():
        word = f"d_{word.encode('ascii', 'replace').decode().replace('?', '_')}"
    return f"{word}_" if word == BATCH else word


def _with_declared(
    inputs: Sequence[Tensor], given: Sequence[GivenTensor], declared: Sequence[Tensor], file: str
) -> tuple[Tensor, ...]:
    """The inputs with what the user states about them; raises BadInput where the file says otherwise."""
    stated = list(inputs)
    by_name = {tensor.name: index for index, tensor in enumerate(inputs)}
    by_name |= {place.name: index for index, place in enumerate(given)}
    for number, tensor in enumerate(declared):
        index = by_name.get(tensor.name)
        if index is None and _DEFAULT_NAME.fullmatch(tensor.name) and number < len(inputs):
            index = number
        if index is None:
            names = ", ".join(tensor.name for tensor in inputs)
            raise BadInput(f"{file} has no input {tensor.name}", f"its inputs are: {names}")
        stated[index] = _merged(inputs[index], tensor, file)
    return tuple(stated)


def _merged(found: Tensor, stated: Tensor, file: str) -> Tensor:
    """An input of the file whose dynamic dimensions the user states."""
    shape = stated.shape
    fits = len(shape) == len(found.shape) and all(
        isinstance(size, str) or size == other for size, other in zip(found.shape[1:], shape[1:], strict=True)
    )
    written = "x".join(map(str, found.shape[1:])) or "a number"
    if not fits:
        other = "x".join(map(str, shape[1:])) or "a number"
        raise BadInput(
            f"{file}: the input {found.name} is {written}, not {other}", f"write --input {found.name}={written}"
        )
    if stated.dtype not in (found.dtype, Tensor.dtype):
        remedy = f"write --input {found.name}={written}:{found.dtype}"
        raise BadInput(f"{file}: the input {found.name} is {found.dtype}, not {stated.dtype}", remedy)
    below = stated.below if stated.below != Tensor.below else found.below
    fill = stated.fill if stated.fill is not Fill.RANDOM else found.fill
    return replace(found, shape=shape, below=below, fill=fill)
