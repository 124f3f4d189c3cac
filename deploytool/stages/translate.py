"""Translates the PyTorch model to ONNX: one self-contained file, stable names, free batch, always the same bytes."""

from __future__ import annotations

import ast
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from deploytool import golden, weights_file
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import eager
from deploytool.errors import StageFailed
from deploytool.spec import Job, Model, Tensor

Example = tuple[torch.Tensor, ...]

_SCOPES = "pkg.torch.onnx.name_scopes"  # where the dynamo exporter leaves the module path of a node


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the graph with the exporter that was chosen; raises StageFailed if the exporter refuses the model."""
    weights = given.latest(Kind.WEIGHTS).path
    module, model = eager.module(weights), weights_file.definition(weights)
    sample = golden.read(given.latest(Kind.GOLDEN).path)
    example = tuple(_two(sample.inputs[tensor.name]) for tensor in model.inputs)
    export = {"torchscript": _torchscript, "dynamo": _dynamo}[job.options.exporter]
    with _quiet():
        try:
            graph = export(module, model, example, job.options.opset)
            _clean(graph)
            onnx.checker.check_model(graph, full_check=True)
        except Exception as error:  # whatever an exporter raises, the user's model was refused
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            other = "dynamo" if job.options.exporter == "torchscript" else "torchscript"
            raise StageFailed(
                f"the {job.options.exporter} exporter refuses the model: {first}", f"try --exporter {other}"
            ) from error
    out.write_bytes(graph.SerializeToString(deterministic=True))
    return {"exporter": job.options.exporter, "opset": graph.opset_import[0].version, "nodes": len(graph.graph.node)}


def _two(cases: npt.NDArray[Any]) -> torch.Tensor:
    """Two cases: a batch of one would be taken for a fixed size."""
    return torch.from_numpy(np.resize(cases, (2, *cases.shape[1:])))


def _torchscript(module: nn.Module, model: Model, example: Example, opset: int) -> onnx.ModelProto:
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
        dynamic_axes={tensor.name: _free(tensor) for tensor in tensors},
    )
    return onnx.load_from_string(file.getvalue())


def _dynamo(module: nn.Module, model: Model, example: Example, opset: int) -> onnx.ModelProto:
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        opset_version=opset,
        input_names=[tensor.name for tensor in model.inputs],
        output_names=[tensor.name for tensor in model.outputs],
        dynamic_shapes=tuple(_free(tensor) for tensor in model.inputs),
        external_data=False,
        verbose=False,
    )
    assert program is not None  # it is None only for the other exporter
    graph = program.model_proto
    for number, node in enumerate(graph.graph.node):
        node.name = f"/{_module_path(node)}/{node.op_type}_{number}"
    return graph


def _free(tensor: Tensor) -> dict[int, str]:
    return {axis: size for axis, size in enumerate(tensor.shape) if isinstance(size, str)}


def _module_path(node: onnx.NodeProto) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "['', '']")
    modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]  # the last scope is the operation itself
    return modules[-1].replace(".", "/") if modules else "model"


def _clean(graph: onnx.ModelProto) -> None:
    """Takes out what an exporter leaves for debugging: stack traces and sources with the paths of this machine."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    inner = graph.graph
    for part in (inner, *inner.node, *inner.input, *inner.output, *inner.value_info, *inner.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps both exporters' progress chatter off stdout and off the log; what matters they raise."""
    logger = logging.getLogger("torch.onnx")
    level, printed = logger.level, torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *said: None  # C++ would print the whole graph, past redirect_stdout
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = printed
        logger.setLevel(level)
