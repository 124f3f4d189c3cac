"""Exports to ONNX through torch.export (`torch.onnx.export` with `dynamo=True`)."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from deploytool.errors import StageFailed
from deploytool.rewrites.graph import storage, weights
from deploytool.spec import Model

_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata key with the module path of a node


def export(
    module: nn.Module, model: Model, example: tuple[torch.Tensor, ...], opset: int, folder: Path
) -> onnx.ModelProto:
    """Exports `module` to an ONNX graph; runs it once on `example`. Errors of torch propagate unchanged.

    A graph beyond 2 GB has its weights in a side file in `folder`. Raises StageFailed for an opset that torch does not
    reach.
    """
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        opset_version=opset,
        input_names=[tensor.name for tensor in model.inputs],
        output_names=[tensor.name for tensor in model.outputs],
        dynamic_shapes=_dynamic_shapes(module, model),
        external_data=False,
        verbose=False,
    )
    assert program is not None  # None only with dynamo=False
    if sum(value.nbytes for value in module.state_dict().values()) > weights.MAX_INLINE_BYTES:
        program.save(folder / "model.onnx", external_data=True)
        graph = storage.load(folder / "model.onnx")
    else:
        graph = program.model_proto
    has = next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    if has != opset:  # torch leaves a graph that its version converter cannot take as it is
        raise StageFailed(f"it writes opset {has} for this model, not {opset}", "see --exporter")
    for number, node in enumerate(graph.graph.node):
        node.name = f"/{_module_path(node)}/{node.op_type}_{number}"
    return graph


def _dynamic_shapes(module: nn.Module, model: Model) -> tuple[Any, ...]:
    """The dynamic axes of each input, in the structure of `forward`: those of a `*args` parameter form one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    dynamic_axes = [tensor.free_axes() for tensor in model.inputs]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(dynamic_axes)
    positional = min(kinds.index(inspect.Parameter.VAR_POSITIONAL), len(dynamic_axes))
    return (*dynamic_axes[:positional], tuple(dynamic_axes[positional:]))


def _module_path(node: onnx.NodeProto) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "['', '']")
    modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]  # the last scope is the operator itself
    return modules[-1].replace(".", "/") if modules else "model"
