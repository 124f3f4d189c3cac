"""The constants of a graph: initialisers, and nodes that hold one value, as tensors of a module."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import onnx
import torch
from onnx import AttributeProto, numpy_helper
from torch import nn

from deploytool.errors import BadInput
from deploytool.loading.graph import element_types
from deploytool.loading.graph.element_types import Value

_UNSAFE = re.compile(r"\W")


def attribute_name(name: str, module: nn.Module, used: Collection[str]) -> str:
    """A name for a tensor or node that a module can have as an attribute, and that is not yet used."""
    safe = _UNSAFE.sub("_", name) or "unnamed"
    safe = f"_{safe}" if safe[0].isdigit() else safe
    candidate, number = safe, 2
    while candidate in used or hasattr(module, candidate):
        candidate, number = f"{safe}_{number}", number + 1
    return candidate


def read(tensor: onnx.TensorProto) -> Value:
    """The value of an initialiser; raises BadInput if it cannot be read."""
    try:
        return element_types.stored(tensor)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        problem = f"the initialiser {tensor.name} of the graph cannot be read: {' '.join(str(error).split())}"
        raise BadInput(problem, "export the graph again, and keep the files of its external data beside it") from error


def read_sparse(tensor: onnx.SparseTensorProto) -> Value:
    """The value of a sparse initialiser, as a dense tensor."""
    values, indices = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return element_types.to_torch(dense)


def of_node(node: onnx.NodeProto) -> Value:
    """The value of a Constant node."""
    (attribute,) = (item for item in node.attribute if item.name != "doc_string")
    if attribute.type == AttributeProto.TENSOR:
        return read(attribute.t)
    if attribute.type == AttributeProto.SPARSE_TENSOR:
        return read_sparse(attribute.sparse_tensor)
    if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        value = onnx.helper.get_attribute_value(attribute)
        return torch.tensor(value, dtype=torch.float32)
    if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
        return torch.tensor(onnx.helper.get_attribute_value(attribute), dtype=torch.int64)
    value = onnx.helper.get_attribute_value(attribute)
    return np.array(value if isinstance(value, bytes) else list(value), dtype=object)
