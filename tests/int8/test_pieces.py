"""An INT8 graph divided into its kernels computes what the whole does, and a wrong kernel is told from a sound one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool.backends import int8_emulation, onnxruntime, openvino
from deploytool.backends.session import Array
from tests.int8 import pieces, quantized
from tests.int8.quantized import Form

ENOUGH = 0.999  # of the integers


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("pieces")
    return onnx.load(quantized.quantised(quantized.network(5, blocks=3), folder, Form.U8S7))


@pytest.fixture(scope="module")
def values(graph: onnx.ModelProto) -> dict[str, Array]:
    """The dequantised tensors of the emulation, and the pictures."""
    shown = quantized.pictures(3, 32)
    names = pieces.quantised_tensors(graph)
    with int8_emulation.start(pieces.with_outputs(graph, names).SerializeToString()) as session:
        return {**session(image=shown), "image": shown}


def fed(piece: pieces.Piece, values: dict[str, Array]) -> dict[str, Array]:
    return {name: values[tensor] for name, tensor in piece.inputs.items()}


def distances(graph: onnx.ModelProto, values: dict[str, Array]) -> Iterator[Array]:
    """How far ONNX Runtime's kernel of each piece of a graph is from the values of another graph."""
    for piece in pieces.divide(graph):
        with onnxruntime.start(piece.model.SerializeToString(), batch_first=False) as session:
            (got,) = session(**fed(piece, values)).values()
        yield pieces.steps(got, values[piece.output], piece.step)


def test_every_quantised_tensor_is_made_by_a_piece_and_each_heavy_node_is_in_one(graph: onnx.ModelProto) -> None:
    found = [*pieces.divide(graph)]
    assert [piece.output for piece in found] == list(pieces.quantised_tensors(graph))
    heavy = [node.op_type for node in graph.graph.node if node.op_type in ("Conv", "Gemm")]
    assert sum(op in ("Conv", "Gemm") for piece in found for op in piece.kind.split()) == len(heavy) > 3
    assert [piece.is_heavy for piece in found].count(True) == len(heavy)


def test_the_emulation_of_a_piece_has_the_integers_of_the_whole(
    graph: onnx.ModelProto, values: dict[str, Array]
) -> None:
    for piece in pieces.divide(graph):
        onnx.checker.check_model(piece.model)
        with int8_emulation.start(piece.model.SerializeToString()) as session:
            (got,) = session(**fed(piece, values)).values()
        np.testing.assert_array_equal(got, values[piece.output])


def test_sound_kernels_are_within_a_step_and_a_wrong_scale_is_not(
    graph: onnx.ModelProto, values: dict[str, Array]
) -> None:
    assert (np.concatenate([*distances(graph, values)]) <= 1).mean() >= ENOUGH
    wrong = onnx.ModelProto()
    wrong.CopyFrom(graph)
    weights = {weight.name: weight for weight in wrong.graph.initializer}
    of_weights = [node for node in wrong.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    scale = weights[
        next(node.input[1] for node in of_weights if numpy_helper.to_array(weights[node.input[1]]).size > 1)
    ]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.1), scale.name))
    assert (np.concatenate([*distances(wrong, values)]) <= 1).mean() < ENOUGH


@pytest.mark.usefixtures("both_runtimes")
def test_each_kernel_of_openvino_is_within_a_step(graph: onnx.ModelProto, values: dict[str, Array]) -> None:
    found = []
    for piece in pieces.divide(graph):
        with openvino.start(piece.model.SerializeToString(), batch_first=False) as session:
            (got,) = session(**fed(piece, values)).values()
        found.append(pieces.steps(got, values[piece.output], piece.step))
    assert (np.concatenate(found) <= 1).mean() >= ENOUGH
