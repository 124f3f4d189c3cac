"""Campaign: integers of fused INT8 kernels against the emulation; `python -m tests.int8.kernels [LAYERS NETWORKS]`.

For every form of quantisation: ONNX Runtime without its optimisations, with them, and OpenVINO if it is installed. Each
prints the share of output integers that are equal, and that are at most one step away: first of single layers, then of
whole networks, where one step in an early layer moves many integers of the later ones.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from deploytool.backends import int8_emulation, onnxruntime
from deploytool.host import machine
from tests.int8 import quantized
from tests.int8.quantized import Form, Network

Array = npt.NDArray[Any]
Runner = Callable[[Path, Array], Array]
LAYERS, NETWORKS, PICTURES = 4, 6, 128  # of each kind
CHANNELS = 16


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


def main() -> None:
    layers, networks = (int(each) for each in (sys.argv[1:] or (LAYERS, NETWORKS)))
    found = runners()
    print(f"{machine.cpu()}, INT8 saturates: {machine.saturates_int8()}; {onnxruntime.fingerprint()}")
    for kind in ("convolution", "convolution, ReLU", "depthwise", "dense"):
        compare(kind, [layer(kind, seed) for seed in range(layers)], CHANNELS, found)
    compare("network", [quantized.network(seed, blocks=3) for seed in range(networks)], 3, found)


if __name__ == "__main__":
    main()
