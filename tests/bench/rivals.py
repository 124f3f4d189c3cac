"""The peers: other ways from a PyTorch model to speed on a CPU, each at its best and on the same number of threads."""

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

from deploytool.backends import eager, eager_variants, onnxruntime
from deploytool.backends.session import Array, Session
from deploytool.data.golden import Arrays
from deploytool.errors import MissingBackend
from deploytool.host import machine
from deploytool.loading import weights_file
from tests.bench.goals import OPENVINO, PLAIN

EAGER, COMPILE, ONNXSIM, ONNXSLIM, OURS = "eager", "torch.compile", "+ onnxsim", "+ onnxslim", "deploytool"
OPSET = 18
LIBRARIES = ("torch", "onnxruntime", "onnxsim", "onnxslim", "openvino")


def plain(weights: Path, inputs: Arrays) -> bytes:
    """What torch.onnx alone makes of the model, with the exporter that leaves the fewest nodes."""
    model, file = weights_file.definition(weights), io.BytesIO()
    tensors = (*model.inputs, *model.outputs)
    example = tuple(torch.from_numpy(inputs[tensor.name][:2]) for tensor in model.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated, and what most people use
        torch.onnx.export(
            eager.load_module(weights),
            example,
            file,  # type: ignore[arg-type]  # the stub forgets that this exporter takes a file object
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in model.inputs],
            output_names=[tensor.name for tensor in model.outputs],
            dynamic_axes={tensor.name: tensor.free() for tensor in tensors},
        )
    return file.getvalue()


def rivals(
    weights: Path, graph: bytes, ours: Path, threads: int, inputs: Arrays, *, compiled: bool
) -> dict[str, Callable[[], AbstractContextManager[Session]]]:
    """How each is started; a library that is not here raises MissingBackend then. `inputs` are one batch."""
    ways: dict[str, Callable[[], AbstractContextManager[Session]]] = {EAGER: partial(eager.start, weights)}
    if compiled:
        ways[COMPILE] = partial(eager_variants.start, weights, "cpu", eager_variants.COMPILE)
    ways[PLAIN] = partial(onnxruntime.start, graph, "cpu", threads)
    ways[ONNXSIM] = partial(_made_smaller, "onnxsim", graph, threads)
    ways[ONNXSLIM] = partial(_made_smaller, "onnxslim", graph, threads)
    ways[OPENVINO] = partial(_openvino, graph, threads, inputs)
    ways[OURS] = partial(onnxruntime.start, ours, "cpu", threads)
    return ways


@contextmanager
def _made_smaller(library: str, graph: bytes, threads: int) -> Iterator[Session]:
    tool, model = _library(library), onnx.load_from_string(graph)
    made = tool.simplify(model)[0] if library == "onnxsim" else tool.slim(model)
    with onnxruntime.start(made.SerializeToString(), "cpu", threads) as session:
        yield session


@contextmanager
def _openvino(graph: bytes, threads: int, inputs: Arrays) -> Iterator[Session]:
    """Compiled for exactly these shapes, which it is fastest for, and in FP32: it would else choose BF16 by itself."""
    core = _library("openvino").Core()
    model = core.read_model(graph, b"")
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def call(**given: Array) -> dict[str, Array]:
        request.infer(given, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in names}

    yield call


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingBackend(f"{name} cannot be imported: {error}", "pip install 'deploytool[bench]'") from error


def versions() -> str:
    return ", ".join(f"{name} {machine.version(name)}" for name in LIBRARIES if machine.version(name))
