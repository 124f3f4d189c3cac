"""The exporter of torch.onnx that captures the model with torch.export and translates that."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import onnx
import torch
from torch import nn

from deploytool.spec import Model

_SCOPES = "pkg.torch.onnx.name_scopes"  # where this exporter leaves the module path of a node


def export(module: nn.Module, model: Model, example: tuple[torch.Tensor, ...], opset: int) -> onnx.ModelProto:
    """The graph of `module`, which runs once on `example`; raises whatever torch raises for a model it refuses."""
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        opset_version=opset,
        input_names=[tensor.name for tensor in model.inputs],
        output_names=[tensor.name for tensor in model.outputs],
        dynamic_shapes=_shapes(module, model),
        external_data=False,
        verbose=False,
    )
    assert program is not None  # it is None only for the other exporter
    graph = program.model_proto
    for number, node in enumerate(graph.graph.node):
        node.name = f"/{_module_path(node)}/{node.op_type}_{number}"
    return graph


def _shapes(module: nn.Module, model: Model) -> tuple[Any, ...]:
    """The free axes of each input as `forward` takes them: what goes into its `*inputs` stands in one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    free = [tensor.free() for tensor in model.inputs]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(free)
    own = min(kinds.index(inspect.Parameter.VAR_POSITIONAL), len(free))
    return (*free[:own], tuple(free[own:]))


def _module_path(node: onnx.NodeProto) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "['', '']")
    modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]  # the last scope is the operation itself
    return modules[-1].replace(".", "/") if modules else "model"
