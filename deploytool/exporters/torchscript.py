"""Exports to ONNX through TorchScript tracing (`torch.onnx.export` with `dynamo=False`)."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import torch
from torch import nn

from deploytool.errors import StageFailed
from deploytool.rewrites.graph import storage, weights
from deploytool.spec import TORCHSCRIPT_OPSET, Model


def export(
    module: nn.Module, model: Model, example: tuple[torch.Tensor, ...], opset: int, folder: Path
) -> onnx.ModelProto:
    """Exports `module` to an ONNX graph; runs it once on `example`. Errors of torch propagate unchanged.

    A graph beyond 2 GB has its weights in side files in `folder`. Raises StageFailed for an opset above
    `TORCHSCRIPT_OPSET`: torch would write the number, but no operator of it.
    """
    if opset > TORCHSCRIPT_OPSET:
        raise StageFailed(f"it writes opsets up to {TORCHSCRIPT_OPSET}, not {opset}", "see --exporter")
    large = sum(value.nbytes for value in module.state_dict().values()) > weights.MAX_INLINE_BYTES
    file = io.BytesIO()
    tensors = (*model.inputs, *model.outputs)
    torch.onnx.export(
        module,
        example,
        str(folder / "model.onnx") if large else file,  # type: ignore[arg-type]  # the stub omits file objects
        dynamo=False,
        opset_version=opset,
        input_names=[tensor.name for tensor in model.inputs],
        output_names=[tensor.name for tensor in model.outputs],
        dynamic_axes={tensor.name: tensor.free_axes() for tensor in tensors},
    )
    return storage.load(folder / "model.onnx") if large else onnx.load_from_string(file.getvalue())
