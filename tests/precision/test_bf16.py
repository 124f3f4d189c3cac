"""BF16 graphs: strongly typed in an opset that has BF16; masks, counts, positions and norms are as they are in FP32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from deploytool.backends import fp16_emulation, tensorrt, tensorrt_builder
from deploytool.backends.tensorrt_builder import BuiltEngine
from deploytool.errors import StageFailed
from deploytool.precision import bf16, fp16, hazards, opset
from deploytool.spec import EnginePlan, Range, Tensor
from tests import planted

Arrays = dict[str, np.ndarray]
Plant = Callable[[], onnx.ModelProto]

HEAD = '<ir_version: 8, opset_import: ["" : 18]>'
MASKED = f"""{HEAD} g (float[n,4] x, int64[n,4] mask) => (float[n,4] y)
<float one = {{1.0}}, float lowest = {{-3.4028235e38}}> {{
    m = Cast<to=1>(mask) i = Sub(one, m) b = Mul(i, lowest) s = Add(x, b) y = Softmax<axis=1>(s)
}}"""
COUNTED = f"""{HEAD} g (float[n,301] x, int64[n,301] mask) => (float[n,1] y)
<int64[1] axis = {{1}}, float k = {{300.0}}> {{
    m = Cast<to=1>(mask) c = ReduceSum(m, axis) d = Sub(c, k) s = ReduceMax(x, axis) y = Mul(s, d)
}}"""
PLACED = f"""{HEAD} g (float[n,301] x) => (float[n,301] y)
<float[1] one = {{1.0}}, int64 axis = {{1}}, float slope = {{0.5}}> {{
    s = Shape(x) o = Expand(one, s) p = CumSum(o, axis) b = Mul(p, slope) y = Add(x, b)
}}"""
SHIFTED = f"""{HEAD} g (float[n,8] x) => (float[n,8] y) <float[8] w = {{1,2,3,4,5,6,7,8}}> {{
    s = Shape(x) e = Expand(w, s) y = Add(x, e)
}}"""
GUARDED = f"""{HEAD} g (float[n,8] x) => (float[n,8] y) <float tiny = {{1e-12}}> {{
    a = Abs(x) m = Max(a, tiny) y = Log(m)
}}"""
NORM = f"""{HEAD} g (float[n,64] x) => (float[n,64] y) <float two = {{2.0}}, float eps = {{1e-5}}> {{
    q = Pow(x, two) m = ReduceMean<axes=[1]>(q) e = Add(m, eps) r = Sqrt(e) y = Div(x, r)
}}""".replace(": 18]", ": 17]")
SAMPLED = """<ir_version: 8, opset_import: ["" : 18]> g (float[n,1,4,4] x, float[n,4,4,2] at) => (float[n,1,4,4] y)
{ y = GridSample<mode="bicubic", align_corners=1>(x, at) }"""


def emulated(graph: onnx.ModelProto, inputs: Arrays, folder: Path) -> np.ndarray:
    onnx.save(graph, folder / "model.onnx")
    with fp16_emulation.start(folder / "model.onnx") as session:
        (answer,) = session(**inputs).values()
    return answer


def computed(graph: onnx.ModelProto, inputs: Arrays) -> np.ndarray:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def converted(text: str) -> onnx.ModelProto:
    conversion = bf16.convert(onnx.parser.parse_model(text))
    return conversion.keeping(hazards.find(conversion).nodes)


def kept(text: str) -> set[str]:
    """The operators of the nodes that stay in FP32."""
    conversion = bf16.convert(onnx.parser.parse_model(text))
    names = hazards.find(conversion).nodes
    return {node.op_type for node in conversion.single.graph.node if node.name in names}


def float_types(graph: onnx.ModelProto) -> dict[str, int]:
    typed = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = (*typed.input, *typed.value_info, *typed.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {weight.name: weight.data_type for weight in typed.initializer}


@pytest.mark.parametrize("plant", planted.PLANTS)
def test_every_node_is_bf16_between_fp32_inputs_and_outputs(plant: Plant) -> None:
    single = plant()
    graph = bf16.convert(single).half
    onnx.checker.check_model(graph, full_check=True)
    types = float_types(graph)
    assert [entry.version for entry in graph.opset_import] == [22]
    assert {types[value.name] for value in (*graph.graph.input, *graph.graph.output)} == {TensorProto.FLOAT}
    for node in graph.graph.node:
        kinds = {types[name] for name in (*node.input, *node.output)} & {TensorProto.FLOAT, TensorProto.BFLOAT16}
        assert len(kinds) == 2 if node.op_type == "Cast" else kinds == {TensorProto.BFLOAT16}, node.name
    mine, theirs = (
        Counter(node.op_type for node in each.graph.node) for each in (graph, fp16.convert(single, keep_io=True).half)
    )
    assert mine == theirs


def test_a_mask_of_the_lowest_float_stays_finite(tmp_path: Path) -> None:
    inputs = {"x": np.array([[1, 2, 3, 4]] * 2, np.float32), "mask": np.array([[1, 1, 0, 1], [0, 0, 0, 0]])}
    got = emulated(converted(MASKED), inputs, tmp_path)
    expected = computed(onnx.parser.parse_model(MASKED), inputs)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, atol=4e-3)
    assert got[0, 2] == 0
    assert (got[1] == 0.25).all()


def test_a_count_of_301_is_301(tmp_path: Path) -> None:
    inputs: Arrays = {"x": np.ones((1, 301), np.float32), "mask": np.ones((1, 301), np.int64)}
    everything = bf16.convert(onnx.parser.parse_model(COUNTED)).half
    assert emulated(everything, inputs, tmp_path)[0, 0] in (0, 2)
    assert emulated(converted(COUNTED), inputs, tmp_path)[0, 0] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MASKED, {"Cast", "Sub", "Mul"}),
        (COUNTED, {"Cast", "ReduceSum", "Sub"}),
        (PLACED, {"Mul"}),
        (SHIFTED, set()),
        (GUARDED, set()),
        (NORM, {"Pow", "ReduceMean", "Add", "Sqrt", "Div"}),
    ],
    ids=["mask", "count", "positions", "learned", "guard", "norm"],
)
def test_counts_masks_positions_and_norms_stay_in_fp32(text: str, expected: set[str]) -> None:
    assert kept(text) == expected


def test_a_guard_that_fp16_does_not_represent_works_in_bf16(tmp_path: Path) -> None:
    inputs = {"x": np.zeros((1, 8), np.float32)}
    assert hazards.find(fp16.convert(onnx.parser.parse_model(GUARDED), keep_io=True)).constants
    got = emulated(converted(GUARDED), inputs, tmp_path)
    np.testing.assert_allclose(got, np.full((1, 8), np.log(1e-12)), rtol=4e-3)


def test_a_raised_opset_computes_the_same_with_the_same_weights() -> None:
    single = planted.shared_weight()
    graph = opset.raised(single, 22)
    assert [(node.op_type, node.name, *node.input) for node in graph.graph.node] == [
        (node.op_type, node.name, *node.input) for node in single.graph.node
    ]
    assert [weight.SerializeToString() for weight in graph.graph.initializer] == [
        weight.SerializeToString() for weight in single.graph.initializer
    ]
    inputs = planted.images()
    np.testing.assert_array_equal(computed(graph, inputs), computed(single, inputs))
    assert opset.raised(graph, 22) is graph


def test_a_big_weight_is_not_lost_on_the_way_to_a_newer_opset() -> None:
    single = onnx.parser.parse_model(f"{HEAD} g (float[n,64] x) => (float[n,64] y) {{ y = MatMul(x, w) }}")
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    single.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    graph = opset.raised(single, 22)
    assert [value.name for value in graph.graph.input] == ["x"]
    np.testing.assert_array_equal(numpy_helper.to_array(graph.graph.initializer[0]), weight)


def test_a_mode_that_a_newer_opset_renamed_is_renamed() -> None:
    (node,) = opset.raised(onnx.parser.parse_model(SAMPLED), 22).graph.node
    assert b"cubic" in [attribute.s for attribute in node.attribute]


def built(capability: str) -> BuiltEngine:
    graph = bf16.convert(planted.sound()).half
    values = [(value.name, value.type.tensor_type.shape.dim) for value in graph.graph.input]
    inputs = [Tensor(name, ("batch", *(side.dim_value for side in sides[1:]))) for name, sides in values]
    plan = EnginePlan("model.plan", "tensorrt_rtx", (capability,))
    library = tensorrt.library("tensorrt_rtx")
    return tensorrt_builder.build(library, graph.SerializeToString(), plan, inputs, {"batch": Range(1, 2, 4)}, None)


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0"])
def test_tensorrt_rtx_builds_it(capability: str) -> None:
    engine = built(capability)
    assert engine.layers["BF16"] > engine.layers.get("FLOAT", 0)
    assert "HALF" not in engine.layers


def test_tensorrt_rtx_refuses_it_for_turing() -> None:
    with pytest.raises(StageFailed, match="HW-specific datatypes: b16"):
        built("7.5")
