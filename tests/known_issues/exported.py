"""Exports small models of the tests with both exporters."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from deploytool.rewrites.graph import storage

IMAGE = torch.zeros(2, 3, 32, 32)


class Exporter(StrEnum):
    TORCHSCRIPT = "torchscript"
    DYNAMO = "dynamo"


def exported(
    model: nn.Module, folder: Path, exporter: Exporter = Exporter.TORCHSCRIPT, inputs: tuple[Tensor, ...] = (IMAGE,)
) -> onnx.GraphProto:
    """The graph of a model with a dynamic batch, checked by ONNX."""
    path = folder / "model.onnx"
    names = [f"input_{index}" for index in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter is Exporter.DYNAMO:
            shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
            torch.onnx.export(
                model.eval(), inputs, path, input_names=names, opset_version=20, dynamo=True, dynamic_shapes=shapes,
                verbose=False,
            )  # fmt: skip
        else:
            axes = {name: {0: "batch"} for name in names}
            torch.onnx.export(
                model.eval(), inputs, path, input_names=names, opset_version=20, dynamo=False, dynamic_axes=axes
            )
    onnx.checker.check_model(path, full_check=True)
    return storage.load(path).graph
