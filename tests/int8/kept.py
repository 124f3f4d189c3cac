"""Graphs for the search for layers to keep: noise that adds up as vectors, and Q/DQ graphs with layers taken out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from deploytool.precision.int8 import keep_search
from deploytool.precision.search import Evaluation, Kept, SearchResult
from tests.int8 import quantized
from tests.int8.quantized import Form

Array = npt.NDArray[Any]
Error = Callable[[Kept], float]
HEAVY = ("Conv", "Gemm")


def noise(seed: int) -> tuple[list[str], Error, Error]:
    """Layers, the error of a kept set, and the error as a few images show it.

    Each layer adds a random vector to the outputs, partly along those of its neighbours, so that noise may add up or
    cancel; the error is the power of the sum.
    """
    rng = np.random.default_rng(seed)
    layers = [f"layer{place}" for place in range(int(rng.integers(8, 13)))]
    common, own = rng.standard_normal(48), rng.standard_normal((len(layers), 48))
    alike = rng.uniform(-0.5, 0.5, (len(layers), 1))
    vectors = (alike * common + np.sqrt(1 - alike**2) * own) * rng.lognormal(
        0, rng.choice([0.3, 1, 1.5]), (len(layers), 1)
    )
    blurred = vectors * rng.lognormal(0, 0.1, vectors.shape)

    def error_of(parts: Array) -> Error:
        def error(kept: Kept) -> float:
            left = [part for layer, part in zip(layers, parts, strict=True) if layer not in kept]
            return float((np.sum(left, axis=0) ** 2).sum()) if left else 0.0

        return error

    return layers, error_of(vectors), error_of(blurred)


def graph(seed: int, folder: Path) -> tuple[list[str], Error, Error]:
    """The same for a random network in INT8 with kept layers in FP32: the error is that of its outputs on pictures."""
    source = quantized.network(seed, blocks=3)
    model = onnx.load(
        quantized.quantised(source, folder, Form.TENSORRT)
    )  # the other forms leave ReLU to the zero point
    layers = [node.name for node in source.graph.node if node.op_type in HEAVY][:10]
    images = quantized.pictures(seed, 24)
    expected = _run(source, images)

    def error_on(count: int) -> Error:
        def error(kept: Kept) -> float:
            got = _run(keep(model, source, kept), images[:count])
            return float(((got - expected[:count]) ** 2).sum())

        return error

    return layers, error_on(24), error_on(6)


def _run(model: onnx.ModelProto, images: Array) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"image": images})[0]
    return result


def keep(model: onnx.ModelProto, source: onnx.ModelProto, kept: Kept) -> onnx.ModelProto:
    """A Q/DQ graph in which the inputs and weights of the layers are quantised that are not kept, and nothing else."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    producers = {node.output[0]: node for node in copy.graph.node}
    inputs = {node.name: list(node.input) for node in source.graph.node}
    weights = {weight.name: weight for weight in source.graph.initializer}
    for node in copy.graph.node:
        if node.name in inputs and (node.op_type not in HEAVY or node.name in kept):
            for place, name in enumerate(inputs[node.name]):
                if name in weights:
                    node.input[place] = f"{name}/kept"
                    values = numpy_helper.to_array(weights[name])
                    copy.graph.initializer.append(numpy_helper.from_array(values, f"{name}/kept"))
                elif node.input[place] in producers and producers[node.input[place]].op_type == "DequantizeLinear":
                    node.input[place] = producers[producers[node.input[place]].input[0]].input[0]
    last = producers[copy.graph.output[0].name]
    real = producers[last.input[0]].input[0]
    last.CopyFrom(onnx.helper.make_node("Identity", [real], [last.output[0]], last.name))
    return copy


def limit(seed: int, layers: list[str], error: Error) -> float:
    """A random error that some, not all, of the layers have to be kept for."""
    least, largest = error(frozenset(layers)), error(frozenset())
    return least + float(np.random.default_rng(seed).uniform(0.03, 0.9)) * (largest - least)


def searched(layers: list[str], error: Error, few: Error, tolerated: float) -> tuple[SearchResult, int]:
    """What the search finds, and how many sets were evaluated, with those for the sensitivities."""
    asked: list[Kept] = []

    def judge(kept: Kept) -> Evaluation:
        asked.append(kept)
        return Evaluation(error(kept) <= tolerated, error(kept))

    found = keep_search.fewest_layers(layers, judge, keep_search.sensitivities(layers, few))
    assert found.evaluations == len(asked) == len(set(asked))
    return found, len(asked) + len(layers)


def fewest(layers: list[str], error: Error, tolerated: float, most: int) -> int:
    """The size of the smallest set that holds, by trying all smaller than `most`."""
    for size in range(most):
        if any(error(frozenset(kept)) <= tolerated for kept in combinations(layers, size)):
            return size
    return most
