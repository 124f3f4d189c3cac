"""Faults of graphs and engines that show at some corners alone: of one size, one batch or one profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploytool.bundle.manifest import read_manifest
from tests.fuzz.artifacts import update_manifest


def edit_graph(folder: Path, change: Callable[[onnx.ModelProto], None], index: int = 0) -> None:
    """Changes a graph of a bundle, with the digest that fits."""
    path = folder / read_manifest(folder).graphs[index].path
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    update_manifest(folder)


def fade_beyond(model: onnx.ModelProto, axis: int, kept: int) -> None:
    """Halves the input beyond a place along an axis: a slice of fixed length, right as long as the axis is shorter."""
    graph, name = model.graph, model.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["faded" if each == name else each for each in node.input]
    numbers = {"zero": [0], "kept": [kept], "most": [1 << 30], "axis": [axis]}
    graph.initializer.extend(numpy_helper.from_array(np.array(each, np.int64), key) for key, each in numbers.items())
    half = np.array(0.5, helper.tensor_dtype_to_np_dtype(graph.input[0].type.tensor_type.elem_type))
    graph.initializer.append(numpy_helper.from_array(half, "half"))
    nodes = [
        helper.make_node("Slice", [name, "zero", "kept", "axis"], ["first"]),
        helper.make_node("Slice", [name, "kept", "most", "axis"], ["rest"]),
        helper.make_node("Mul", ["rest", "half"], ["halved"]),
        helper.make_node("Concat", ["first", "halved"], ["faded"], axis=axis),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)


def bake_width(model: onnx.ModelProto) -> None:
    """Reshapes the input to the width of the golden cases."""
    graph, name = model.graph, model.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["baked" if each == name else each for each in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 48], np.int64), "shape"))
    graph.node.insert(0, helper.make_node("Reshape", [name, "shape"], ["baked"]))


def wrong_in_second(profile: int, output: np.ndarray) -> np.ndarray:
    return output * np.float32(1.1 if profile == 1 else 1.0)


def wrong_in_large_batches(profile: int, output: np.ndarray) -> np.ndarray:
    return output * np.where(np.arange(len(output)) < 20, 1, 1.1).astype(np.float32)[:, None]
