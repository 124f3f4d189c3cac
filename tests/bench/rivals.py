"""Starts the rivals: other runtimes and optimisers for PyTorch models on a CPU, each with its best settings."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import torch

from deploytool.backends import eager, eager_variants, onnxruntime, openvino
from deploytool.backends.session import Array, Session
from deploytool.data.golden import Arrays
from deploytool.errors import MissingBackend
from deploytool.host import machine
from deploytool.loading import weights_file
from deploytool.results.artifact import openvino_graph
from tests.bench.goals import OPENVINO, ORT

EAGER, COMPILE, ONNXSIM, ONNXSLIM, OURS = "eager", "torch.compile", "+ onnxsim", "+ onnxslim", "deploytool"
OURS_OPENVINO = "deploytool in OpenVINO"
OPSET = 18
LIBRARIES = ("torch", "onnxruntime", "onnxsim", "onnxslim", "openvino")


def export_onnx(weights: Path, inputs: Arrays) -> bytes:
    """The ONNX graph of a model by torch.onnx alone, with the exporter that leaves the fewest nodes."""
    model, file = weights_file.definition(weights), io.BytesIO()
    tensors = (*model.inputs, *model.outputs)
    example = tuple(torch.from_numpy(inputs[tensor.name][:2]) for tensor in model.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated but still the most widely used
        torch.onnx.export(
            eager.load_module(weights),
            example,
            file,  # type: ignore[arg-type]  # the stub lacks the file object that this exporter accepts
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in model.inputs],
            output_names=[tensor.name for tensor in model.outputs],
            dynamic_axes={tensor.name: tensor.free_axes() for tensor in tensors},
        )
    return file.getvalue()


def rivals(
    weights: Path, graph: bytes, ours: Path, threads: int, inputs: Arrays, *, compiled: bool
) -> dict[str, Callable[[], AbstractContextManager[Session]]]:
    """A function for each rival that starts its session, or raises MissingBackend; `inputs` are one batch."""
    starters: dict[str, Callable[[], AbstractContextManager[Session]]] = {EAGER: partial(eager.start, weights)}
    if compiled:
        starters[COMPILE] = partial(eager_variants.start, weights, "cpu", eager_variants.COMPILE)
    starters[ORT] = partial(onnxruntime.start, graph, "cpu", threads)
    starters[ONNXSIM] = partial(_optimised, "onnxsim", graph, threads)
    starters[ONNXSLIM] = partial(_optimised, "onnxslim", graph, threads)
    starters[OPENVINO] = partial(_openvino, graph, threads, inputs)
    starters[OURS] = partial(onnxruntime.start, ours, "cpu", threads)
    starters[OURS_OPENVINO] = partial(openvino.start, openvino_graph(ours) or ours, "cpu", threads)
    return starters


@contextmanager
def _optimised(library: str, graph: bytes, threads: int) -> Iterator[Session]:
    tool, model = _library(library), onnx.load_from_string(graph)
    optimised = tool.simplify(model)[0] if library == "onnxsim" else tool.slim(model)
    with onnxruntime.start(optimised.SerializeToString(), "cpu", threads) as session:
        yield session


@contextmanager
def _openvino(graph: bytes, threads: int, inputs: Arrays) -> Iterator[Session]:
    """An OpenVINO session with static shapes, its fastest setting, and FP32, because it may choose BF16 otherwise."""
    core = openvino.library().Core()
    model = core.read_model(graph, b"")
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def call(**arrays: Array) -> dict[str, Array]:
        request.infer(arrays, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in names}

    yield call


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingBackend(f"{name} cannot be imported: {error}", "pip install 'deploytool[bench]'") from error


def versions() -> str:
    return ", ".join(f"{name} {machine.version(name)}" for name in LIBRARIES if machine.version(name))
