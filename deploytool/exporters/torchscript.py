"""The exporter of torch.onnx that traces the model to TorchScript and translates that."""

from __future__ import annotations

import io

import onnx
import torch
from torch import nn

from deploytool.spec import Model


def export(module: nn.Module, model: Model, example: tuple[torch.Tensor, ...], opset: int) -> onnx.ModelProto:
    """The graph of `module`, which runs once on `example`; raises whatever torch raises for a model it refuses."""
    file = io.BytesIO()
    tensors = (*model.inputs, *model.outputs)
    torch.onnx.export(
        module,
        example,
        file,  # type: ignore[arg-type]  # the stub forgets that this exporter takes a file object
        dynamo=False,
        opset_version=opset,
        input_names=[tensor.name for tensor in model.inputs],
        output_names=[tensor.name for tensor in model.outputs],
        dynamic_axes={tensor.name: tensor.free() for tensor in tensors},
    )
    return onnx.load_from_string(file.getvalue())
