"""Mixed-precision graphs: strongly typed, cast where the types meet, and FP32 where FP16 overflows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from deploytool.backends import fp16_emulation
from deploytool.data.golden import Floor, Golden, Noise
from deploytool.parity import metrics
from deploytool.precision import fp16
from deploytool.precision.conversion import Conversion
from deploytool.precision.search import Evaluation, Kept, smallest_set
from deploytool.spec import Preprocessing
from deploytool.stages.fp16 import assess
from tests import planted

Plant = Callable[[], onnx.ModelProto]

NOISE = Noise(Floor(1e-6, 1e-6), Floor(5e-4, 2.5e-3))  # FP16 may err by 2e-3, and 40 dB


def answers(graph: onnx.ModelProto, inputs: dict[str, planted.Array]) -> planted.Array:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def sample(graph: onnx.ModelProto) -> Golden:
    inputs = planted.images()
    logits = answers(graph, inputs)
    none, labels = np.zeros((len(logits), 0, 0, 3), np.uint8), np.full(len(logits), -1)
    return Golden(
        none, inputs, {"logits": logits}, {"logits": logits.astype(np.float64)}, labels, Preprocessing(), NOISE
    )


def names(conversion: Conversion) -> list[str]:
    return [node.name for node in conversion.nodes]


def check_types(graph: onnx.ModelProto) -> None:
    """Fails if FP16 and FP32 meet in a node that is not a cast, or if a cast casts nothing."""
    onnx.checker.check_model(graph, full_check=True)
    typed = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.input, *typed.value_info, *typed.output)}
    types |= {weight.name: weight.data_type for weight in typed.initializer}
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    for node in typed.node:
        mine = [types[name] for name in (*node.input, *node.output) if types[name] in floats]
        assert len(set(mine)) == (2 if node.op_type == "Cast" else 1), node.name
    made = [name for node in typed.node for name in node.output]
    assert len(set(made)) == len(made)
    assert len({node.name for node in typed.node}) == len(typed.node)


@pytest.mark.parametrize("keep_io", [True, False])
@pytest.mark.parametrize("plant", planted.PLANTS)
def test_every_set_of_kept_nodes_gives_a_strongly_typed_graph(plant: Plant, keep_io: bool) -> None:
    conversion = fp16.convert(plant(), keep_io=keep_io)
    check_types(conversion.half)
    for kept in (
        *combinations(names(conversion), 1),
        *combinations(names(conversion), 2),
        *combinations(names(conversion), 3),
    ):
        mixed = conversion.keeping(kept)
        check_types(mixed)
        assert {node.name for node in mixed.graph.node} >= set(names(conversion))
        assert [value.name for value in mixed.graph.output] == ["logits"]


@pytest.mark.parametrize("plant", planted.PLANTS)
def test_with_everything_kept_it_is_the_fp32_graph_again(plant: Plant) -> None:
    single = plant()
    conversion = fp16.convert(single, keep_io=True)
    kept = conversion.keeping(names(conversion))
    assert [node.op_type for node in kept.graph.node] == [node.op_type for node in single.graph.node]
    inputs = planted.images()
    np.testing.assert_array_equal(answers(kept, inputs), answers(single, inputs))


def test_tensors_between_kept_nodes_are_fp32() -> None:
    conversion = fp16.convert(planted.between_layers(), keep_io=True)
    one, both = conversion.keeping({"/Conv_2"}), conversion.keeping({"/Conv_2", "/Relu_3"})
    casts = [[node.input[0] for node in graph.graph.node if node.op_type == "Cast"] for graph in (one, both)]
    assert casts[0] == ["input", "/Relu_1_output", "/Conv_2_output", "logits/fp16"]
    assert casts[1] == ["input", "/Relu_1_output", "/Relu_3_output", "logits/fp16"]


def test_kept_nodes_at_the_ends_of_the_graph_need_no_cast() -> None:
    conversion = fp16.convert(planted.between_layers(), keep_io=True)
    ends = conversion.keeping({"/Conv_0", "/MatMul_7"})
    nodes = {node.name: node for node in ends.graph.node}
    assert nodes["/Conv_0"].input[0] == "input"
    assert nodes["/MatMul_7"].output[0] == "logits"


def test_a_shared_weight_is_stored_in_both_types() -> None:
    conversion = fp16.convert(planted.shared_weight(), keep_io=True)
    mixed = conversion.keeping({"/Conv_4"})
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in mixed.graph.initializer}
    read = {node.name: node.input[1] for node in mixed.graph.node if node.op_type == "Conv"}
    assert weights[read["/Conv_4"]].dtype == np.float32
    assert weights[read["/Conv_2"]].dtype == np.float16
    np.testing.assert_array_equal(weights[read["/Conv_4"]].astype(np.float16), weights[read["/Conv_2"]])
    both = conversion.keeping({"/Conv_2", "/Conv_4"}).graph.initializer
    assert len(both) == len(conversion.half.graph.initializer) == len(mixed.graph.initializer) - 1


def test_the_same_nodes_give_the_same_bytes() -> None:
    conversion = fp16.convert(planted.gate(), keep_io=True)
    made = {
        conversion.keeping(order).SerializeToString(deterministic=True)
        for order in (names(conversion), names(conversion)[::-1])
    }
    assert len(made) == 1
    assert conversion.keeping(()) is conversion.half


def test_nodes_without_a_name_of_their_own_get_one() -> None:
    graph = planted.sound()
    for node in graph.graph.node:
        node.name = "" if node.op_type == "Conv" else "twice"
    conversion = fp16.convert(graph, keep_io=True)
    assert len(set(names(conversion))) == len(graph.graph.node)
    check_types(conversion.keeping(names(conversion)[2:4]))


@pytest.mark.integration
@pytest.mark.parametrize("plant", planted.PLANTS)
def test_the_search_finds_a_smallest_set(plant: Plant) -> None:
    """Compared with all sets, each evaluated in FP16 arithmetic, with and without the nodes known to overflow."""
    conversion, taken = fp16.convert(plant(), keep_io=True), sample(plant())
    seen: dict[Kept, Evaluation] = {}

    def judge(kept: Kept) -> Evaluation:
        if kept not in seen:
            seen[kept] = assess(conversion.keeping(kept), taken, metrics.tolerances(taken.noise, {}))
        return seen[kept]

    assert not judge(Kept()).holds
    every = (frozenset(kept) for size in range(9) for kept in combinations(names(conversion), size))
    best = next(kept for kept in every if judge(kept).holds)
    for must in ((), conversion.beyond(taken.inputs)):
        found = smallest_set(names(conversion), judge, must)
        assert found.kept is not None
        assert judge(found.kept).holds
        assert len(found.kept) <= len(best)
        assert found.evaluations < 0.1 * 2 ** len(names(conversion))


def test_a_sound_graph_needs_no_kept_nodes() -> None:
    conversion, taken = fp16.convert(planted.sound(), keep_io=True), sample(planted.sound())
    assert assess(conversion.half, taken, metrics.tolerances(taken.noise, {})).holds
    assert conversion.beyond(taken.inputs) == frozenset()


@pytest.mark.parametrize(("share", "holds"), [(0.9, False), (0.7, True)])
def test_the_search_leaves_headroom_for_other_arithmetic(share: float, holds: bool) -> None:
    conversion, taken = fp16.convert(planted.sound(), keep_io=True), sample(planted.sound())
    answers, _ = fp16_emulation.run_with_range(conversion.half, taken.inputs)
    loose = metrics.tolerances(taken.noise, {"fp16": 1.0})
    used = metrics.largest_share(metrics.check(answers, taken.reference, "FP64", loose.fp16))
    assert assess(conversion.half, taken, metrics.tolerances(taken.noise, {"fp16": used / share})).holds is holds


def test_a_value_that_is_clipped_later_is_still_an_overflow() -> None:
    conversion, taken = fp16.convert(planted.clipped(), keep_io=True), sample(planted.clipped())
    assert conversion.beyond(taken.inputs) == {"/Conv_2", "/Clip_3"}
    assert not assess(conversion.keeping({"/Conv_2"}), taken, metrics.tolerances(taken.noise, {})).holds


def test_a_weight_in_both_types_is_rounded_for_its_fp16_reader_alone() -> None:
    """Otherwise the FP16 graph would be compared with a graph that it was not converted from."""
    single = planted.shared_weight()
    conversion = fp16.convert(single, keep_io=True)
    mixed = conversion.keeping({"/Conv_4"})
    reference = fp16_emulation.round_weights_like(planted.shared_weight(), mixed)
    widened = fp16_emulation.emulate(mixed, results=False)
    inputs = planted.images()
    np.testing.assert_allclose(answers(widened, inputs), answers(reference, inputs), rtol=1e-4, atol=1e-5)
    everything = fp16_emulation.round_weights_like(planted.shared_weight(), conversion.half)
    assert np.abs(answers(everything, inputs) - answers(reference, inputs)).max() > 1e-4
