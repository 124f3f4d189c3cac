"""Campaign: integers of fused INT8 kernels against the emulation; `python -m tests.int8.kernels [LAYERS NETWORKS]`.

For every form of quantisation: ONNX Runtime without its optimisations, with them, and OpenVINO if it is installed. Each
prints the share of output integers that are equal, and that are at most one step away: first of single layers, then of
whole networks, where one step in an early layer moves many integers of the later ones. Last come models of the zoo on
photographs, with the graphs that an export makes for each runtime on this machine, kernel by kernel: each is fed with
the integers that the emulation has there.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from deploytool.backends import int8_emulation, onnxruntime
from deploytool.backends import openvino as backend
from deploytool.backends.session import Session
from deploytool.data import images
from deploytool.host import machine
from deploytool.pipeline import runner
from deploytool.precision.int8 import executed, macs
from deploytool.results.artifact import OPENVINO_GRAPH, Kind
from deploytool.results.int8_forms import cpu_form
from deploytool.spec import Job, Options, Source, Stage
from tests.int8 import pieces, quantized
from tests.int8.quantized import Form, Network
from tests.power import pictures
from tests.power.models import small_zoo

Array = npt.NDArray[Any]
Runner = Callable[[Path, Array], Array]
LAYERS, NETWORKS, PICTURES = 4, 6, 128  # of each kind
CHANNELS = 16
ZOO = ("mobilenet_v1_025", "squeezenet1_1", "shufflenet_g3_x0_25", "mixnet_s")
CALIBRATION, SHOWN = 48, 8  # photographs of each model
RECIPE = (
    *(Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.CALIBRATE, Stage.FP16, Stage.INT8),
)


def emulated(path: Path, images: Array) -> Array:
    with int8_emulation.start(path) as session:
        return next(iter(session(image=images).values()))


def unfused(path: Path, images: Array) -> Array:
    with onnxruntime.start(path, optimise=False) as session:
        return next(iter(session(image=images).values()))


def fused(path: Path, images: Array) -> Array:
    with onnxruntime.start(path) as session:
        return next(iter(session(image=images).values()))


def openvino(path: Path, images: Array) -> Array:
    library = import_module("openvino")
    core = library.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result: Array = next(iter(compiled({"image": images}).values()))
    return result


def step(path: Path) -> float:
    """The scale of the output of a graph."""
    model = onnx.load(path)
    last = next(node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    scale = next(weight for weight in model.graph.initializer if weight.name == last.input[1])
    return float(numpy_helper.to_array(scale))


def layer(kind: str, seed: int) -> onnx.ModelProto:
    """A convolution, one with ReLU, a depthwise one, or a dense layer."""
    net = Network(seed, CHANNELS)
    if kind == "dense":
        net.node("Flatten", [net.last], axis=1)
        net.dense(10, CHANNELS * net.size**2)
    elif kind == "depthwise":
        net.conv(CHANNELS, groups=CHANNELS)
    else:
        net.conv(24)
    if kind == "convolution, ReLU":
        net.node("Relu", [net.last])
    return net.model()


def runners() -> dict[str, Runner]:
    """The runtimes that are installed."""
    found: dict[str, Runner] = {"ONNX Runtime, unfused": unfused, "ONNX Runtime, fused": fused}
    try:
        import_module("openvino")
    except ImportError:
        print("OpenVINO: unavailable (not installed)")
        return found
    return found | {"OpenVINO": openvino}


def compare(title: str, models: Sequence[onnx.ModelProto], channels: int, found: dict[str, Runner]) -> None:
    """Prints the table of some models, by the form of quantisation and the runtime."""
    steps: dict[tuple[str, str], list[Array]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for seed, model in enumerate(models):
            images = quantized.pictures(seed, PICTURES, channels)
            for form in Form:
                path = quantized.quantised(model, Path(folder), form)
                expected, unit = emulated(path, images), step(path)
                for name, run in found.items():
                    steps[form.name, name].append(np.abs(run(path, images) - expected).ravel() / unit)
    print(title)
    for (form_name, name), each in steps.items():
        distance = np.concatenate(each)
        shares = f"equal {(distance < 0.5).mean():8.4%}, within a step {(distance < 1.5).mean():8.4%}"
        print(f"  {form_name:9} {name:22} {shares}, largest {distance.max():.0f} steps", flush=True)


def exported(name: str, folder: Path) -> Path:
    """The folder of the INT8 graphs of a small model of the zoo, from the form of the FP32 graph with fewest nodes."""
    model = small_zoo(name)
    calibration = folder / f"{name}.npz"
    named: dict[str, Any] = {model.inputs[0].name: photographs(name)[:CALIBRATION]}
    np.savez(calibration, **named)
    source = Source(str(calibration), name)
    options = Options(images=4, seconds=0.0, calibration=source, rewrite="fewest-nodes", rewrite_implied=True)
    *_, last = runner.run(Job(model, options), RECIPE, folder / name)
    return last.path.parent


def photographs(name: str) -> Array:
    """Crops of photographs as the model takes them, those for calibration first."""
    settings = small_zoo(name).preprocessing
    return images.normalise(pictures.crops(CALIBRATION + SHOWN, settings), settings)


def kernel_by_kernel(graph: Path, start: Callable[[bytes], AbstractContextManager[Session]], shown: Array) -> None:
    """Prints how far each kind of kernel of a graph is from the emulation, and how far the whole graph is."""
    model = onnx.load(graph)
    (taken,) = (each.name for each in model.graph.input)
    tensors = pieces.quantised_tensors(model)
    with int8_emulation.start(pieces.with_outputs(model, tensors).SerializeToString()) as session:
        values = {**session(**{taken: shown}), taken: shown}
    distances: dict[str, list[Array]] = defaultdict(list)
    for piece in pieces.divide(model):
        with start(piece.model.SerializeToString()) as session:
            (got,) = session(**{name: values[tensor] for name, tensor in piece.inputs.items()}).values()
        distances[piece.kind].append(pieces.steps(got, values[piece.output], piece.step))
    for kind, each in sorted(distances.items()):
        print(f"    {kind:50} {len(each):3} kernels: {_shares(np.concatenate(each))}")
    print(f"    {'all':50} {sum(map(len, distances.values())):3} kernels: {_shares(_joined(distances))}", flush=True)
    with start(pieces.with_outputs(model, tensors[-1:]).SerializeToString()) as session:
        whole = session(**{taken: shown})
    last = [*pieces.divide(model)][-1]
    distance = pieces.steps(whole[last.output], values[last.output], last.step)
    print(f"    {'the last integers of the whole graph':62}{_shares(distance)}", flush=True)


def _joined(distances: Mapping[str, Sequence[Array]]) -> Array:
    return np.concatenate([array for each in distances.values() for array in each])


def _shares(distance: Array) -> str:
    within = f"equal {(distance < 0.5).mean():9.4%}, within a step {(distance < 1.5).mean():9.4%}"
    return f"{within}, largest {distance.max():.0f} steps, {distance.size:,} integers"


def _in_int8(graph: Path) -> str:
    """How many convolutions and products of the graph for OpenVINO it runs by INT8 kernels."""
    if graph.name != OPENVINO_GRAPH:
        return ""
    heavy = macs.in_graph(onnx.load(graph))
    return f", {len(heavy & executed.in_openvino(backend.runtime_model(graph)))} of {len(heavy)} heavy nodes in INT8"


def zoo() -> None:
    """Prints the table of the models of the zoo."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ZOO:
            made, shown = exported(name, Path(folder)), photographs(name)[CALIBRATION:]
            for file, library in ((Kind.INT8_GRAPH.value, onnxruntime), (OPENVINO_GRAPH, backend)):
                if (made / file).exists():
                    print(f"  {name}, {file}, {library.fingerprint()}{_in_int8(made / file)}")
                    kernel_by_kernel(made / file, partial(library.start, batch_first=False), shown)


def main() -> None:
    layers, networks = (int(each) for each in (sys.argv[1:] or (LAYERS, NETWORKS)))
    found = runners()
    print(f"{machine.cpu()}, INT8 saturates: {machine.saturates_int8()}; {onnxruntime.fingerprint()}")
    for kind in ("convolution", "convolution, ReLU", "depthwise", "dense"):
        compare(kind, [layer(kind, seed) for seed in range(layers)], CHANNELS, found)
    compare("network", [quantized.network(seed, blocks=3) for seed in range(networks)], 3, found)
    print(f"models of the zoo, form {cpu_form()}")
    zoo()


if __name__ == "__main__":
    main()
