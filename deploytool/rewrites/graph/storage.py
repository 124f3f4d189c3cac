"""Loads and saves ONNX graphs; a graph beyond the limit of protobuf has its weights in a side file beside it.

A loaded graph with side files keeps its larger weights there: `weights.values` reads them when they are needed.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from deploytool.errors import BadInput, DeployError, Refused
from deploytool.host import disk, files, owner, side_files
from deploytool.host.side_files import Reference
from deploytool.rewrites.graph import texts, weights

_MAX_MESSAGE_BYTES = (2 << 30) - 1  # of protobuf
_BLOCK_BYTES = 1 << 20  # that are hashed at a time
_ALIGNMENT = 4096  # bytes: of a weight in a side file, so that it can be mapped into memory
_REMEDY = "put its side files beside it as regular files, or save it again with onnx.save_model"


def load(path: Path) -> ModelProto:
    """The graph in a file; weights of its main graph with at least `weights.SMALLEST` bytes stay in its side files.

    Those side files must stay in place while the graph is used. Raises BadInput, in one line, for a file that cannot be
    read, is no ONNX graph, or has external data that is invalid, missing or outside of its folder.
    """
    model = load_structure(path)
    outside = [weight for weight in model.graph.initializer if weight.data_location == TensorProto.EXTERNAL]
    for weight in outside:
        stated = _reference(weight, path)
        weights.set_reference(weight, str(path.absolute().parent / stated.location), stated.offset)
    for tensor in [*_external_tensors(model)]:
        size, (location, offset) = weights.tensor_bytes(tensor), weights.place(tensor)
        is_weight = Path(location).is_absolute()
        if not is_weight or size < weights.SMALLEST:
            content = _read(path.parent / location, offset, size)
            weights.clear_reference(tensor)
            tensor.raw_data = content
    return model


def load_structure(path: Path) -> ModelProto:
    """The graph in a file without the weights in its side files, which are checked as `load` does but not read."""
    model = _parse(path)
    try:
        references = [(_reference(tensor, path), weights.tensor_bytes(tensor)) for tensor in _external_tensors(model)]
        locations = dict.fromkeys(stated.location for stated, _ in references)
        sizes = {location: side_files.size(path.parent, location, path) for location in locations}
        side_files.check_ranges(references, sizes)
        for location, checksum in {(stated.location, stated.checksum) for stated, _ in references if stated.checksum}:
            _check_checksum(path.parent / location, checksum)
    except ValueError as error:
        raise BadInput(f"{path} cannot be used: {error}", _REMEDY) from error
    return model


def files_of(path: Path) -> tuple[Path, ...]:
    """A graph and its side files, in the order in which the graph names them."""
    locations = dict.fromkeys(_reference(tensor, path).location for tensor in _external_tensors(load_structure(path)))
    return (path, *(path.parent / location for location in locations))


def save(graph: ModelProto, path: Path) -> None:
    """Writes a graph deterministically: as one file, or with a side file.

    There is a side file if the weights exceed `weights.MAX_INLINE_BYTES`; one of an earlier graph is removed. Raises
    StageFailed if the graph without its weights is too large for ONNX, ResourceExhausted if it cannot be written.
    """
    side = side_files.side_file(path)
    if weights.weight_bytes(graph) <= weights.MAX_INLINE_BYTES:
        disk.write(path, weights.serialise(weights.inlined(graph)))
        side.unlink(missing_ok=True)
        return
    large = [weight for weight in graph.graph.initializer if weights.is_big(weight)]
    skeleton, offset = weights.bare(graph), 0
    stubs = iter([weight for weight in skeleton.graph.initializer if weight.data_location == TensorProto.EXTERNAL])
    temporary = side.with_name(f".{side.name}.{owner.name()}{files.UNFINISHED}")
    needed = sum(weights.tensor_bytes(weight) + _ALIGNMENT for weight in large)
    try:
        with disk.writing(temporary, named=side, needed=needed), temporary.open("wb") as file:
            for weight in large:
                file.write(bytes(-offset % _ALIGNMENT))
                offset += -offset % _ALIGNMENT
                file.write(weights.raw(weight))
                weights.set_reference(next(stubs), side.name, offset)
                offset += weights.tensor_bytes(weight)
        content = weights.serialise(skeleton)
        temporary.replace(side)
    finally:
        temporary.unlink(missing_ok=True)
    disk.write(path, content)


def copy(source: Path, target: Path) -> None:
    """Copies a graph and its side files; never by hard links, with which onnx refuses to read side files."""
    sides = files_of(source)[1:]
    if not sides:
        disk.write(target, source.read_bytes())
        side_files.side_file(target).unlink(missing_ok=True)
        return
    if len(sides) > 1:
        save(load(source), target)
        return
    model, side = load_structure(source), side_files.side_file(target)
    for tensor in _external_tensors(model):
        weights.set_reference(tensor, side.name, _reference(tensor, source).offset)
    content = weights.serialise(model)
    with disk.writing(side, needed=sides[0].stat().st_size):
        shutil.copyfile(sides[0], side)
    disk.write(target, content)


def remove(path: Path) -> None:
    """Removes a graph that `save` or `copy` wrote, with its side file."""
    for file in (path, side_files.side_file(path)):
        file.unlink(missing_ok=True)


def _parse(path: Path) -> ModelProto:
    remedy = "check that it is a complete ONNX file"
    try:
        raw = files.read(path.resolve(), _MAX_MESSAGE_BYTES)  # the user's own link to a graph is followed
    except Refused as error:
        raise BadInput(str(error), "check the path: it must name a regular file, of at most 2 GB") from error
    try:
        model: ModelProto = ModelProto.FromString(raw)
    except DecodeError as error:
        raise BadInput(f"{path} is not an ONNX graph", remedy) from error
    if not model.HasField("graph"):
        raise BadInput(f"{path} is not an ONNX graph", remedy)
    if (garbled := texts.find_garbled(model)) is not None:
        raise BadInput(f"{path} has a name that is not UTF-8: {garbled}", remedy)
    return model


def _external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor with external data, wherever it occurs."""
    return (tensor for tensor in _tensors(model) if tensor.data_location != TensorProto.DEFAULT or tensor.external_data)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: weights, constants, those of subgraphs, functions and training."""
    training = [graph for info in model.training_info for graph in (info.initialization, info.algorithm)]
    pending: list[GraphProto | NodeProto] = [model.graph, *training]
    pending += [node for function in model.functions for node in function.node]
    defaults = [attribute for function in model.functions for attribute in function.attribute_proto]
    pending.append(NodeProto(attribute=defaults))
    while pending:
        message = pending.pop()
        if isinstance(message, GraphProto):
            pending += message.node
            yield from message.initializer
            yield from _parts(message.sparse_initializer)
            continue
        for attribute in message.attribute:
            pending += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())]
            yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else ()))
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            yield from _parts((*attribute.sparse_tensors, *sparse))


def _parts(tensors: Any) -> Iterator[TensorProto]:
    for tensor in tensors:
        assert isinstance(tensor, SparseTensorProto)
        yield from (tensor.values, tensor.indices)


def _reference(tensor: TensorProto, path: Path) -> Reference:
    """Where a tensor's values are; raises ValueError if that is invalid or contradicts the tensor."""
    name = tensor.name if tensor.name.isprintable() else repr(tensor.name)
    name = name[:80] or "a constant"
    try:
        if tensor.data_location != TensorProto.EXTERNAL:
            raise ValueError("states external data and does not use it")
        if any(descriptor.name in weights.VALUE_FIELDS for descriptor, _ in tensor.ListFields()):
            raise ValueError("has values both in the graph and outside of it")
        if min(tensor.dims, default=0) < 0 or (math.prod(tensor.dims) and not weights.tensor_bytes(tensor)):
            raise ValueError("has external data of an unknown type or size")
        entries = [(entry.key, entry.value) for entry in tensor.external_data]
        return side_files.reference(name, entries, path.name)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _check_checksum(path: Path, stated: str) -> None:
    """Raises ValueError if the SHA-1 that is stated for a side file is not its own."""
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if stated != digest.hexdigest():
        raise ValueError(f"{path.name} has another checksum than the graph states")


def _read(path: Path, offset: int, length: int) -> bytes:
    """A range of a file that was checked before; raises BadInput if the file has changed meanwhile."""
    try:
        with files.open_file(path) as file:
            file.seek(offset)
            content = file.read(length)
    except DeployError as error:
        raise BadInput(str(error), _REMEDY) from error
    if len(content) != length:
        raise BadInput(f"{path} is shorter than a moment ago", "export where no other process writes")
    return content
