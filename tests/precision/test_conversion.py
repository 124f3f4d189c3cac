"""Graphs that are hard to convert: shared constants, subgraphs, operators without FP16, unusual inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from deploytool.backends import fp16_emulation, tensorrt
from deploytool.precision import fp16
from deploytool.results import verdict
from tests.user_model_export import Walk

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
HEAD = '<ir_version: 8, opset_import: ["" : 18]> g (float[batch,4,8,8] input) => (float[batch,C,H,W] output)'
W = "float[4,4,1,1] w = {0.5,0.1,-0.2,0.3, 0.1,0.4,0.2,-0.3, 0.2,0.2,0.6,0.1, -0.1,0.3,0.1,0.7}"
UP = "float[4] s = {1.0,1.0,2.0,2.0}"
INSIDE = """flag = Constant<value = bool {1}>()
    f = If (flag) <then_branch = t () => (float[batch,4,8,8] y) {y = Mul(x, k)},
                   else_branch = e () => (float[batch,4,8,8] z) {z = Add(x, k)}>"""
NESTED = """flag = Constant<value = bool {1}>()
    f = If (flag) <then_branch = t () => (float[batch,4,8,8] y) {
                       y = If (flag) <then_branch = tt () => (float[batch,4,8,8] yy) {yy = Mul(x, k)},
                                      else_branch = te () => (float[batch,4,8,8] yz) {yz = Add(k, x)}>},
                   else_branch = e () => (float[batch,4,8,8] z) {z = Identity(x)}>"""
LOOP = """times = Constant<value = int64 {3}>() flag = Constant<value = bool {1}>()
    f = Loop (times, flag, x) <body = b (int64 i, bool c, float[batch,4,8,8] v) => (bool d, float[batch,4,8,8] u)
        {d = Identity(c) u = Mul(v, k)}>"""

# the nodes, and the weights they read; x is the output of a convolution, f the input of one
BODIES = {
    "one constant for two Resizes": (
        's = Constant<value = float[4] {1.0,1.0,2.0,2.0}>() a = Resize<mode="nearest">(x, , s) '
        'f = Resize<mode="linear">(a, , s)',
        [],
    ),
    "one weight for two Resizes": ("a = Resize(x, , s) f = Resize(a, , s)", [UP]),
    "a weight for a Resize and a sum": (
        "a = Resize(x, , s) r = Reshape(s, q) f = Add(a, r)",
        [UP, "int64[4] q = {1,4,1,1}"],
    ),
    "one roi for two Resizes": (
        'a = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, s) '
        'f = Resize<coordinate_transformation_mode="tf_crop_and_resize">(a, r, s)',
        [UP, "float[8] r = {0.0,0.0,0.0,0.0,1.0,1.0,1.0,1.0}"],
    ),
    "scales that are computed": (
        "k = Constant<value_floats = [1.0, 1.0]>() t = Concat<axis=0>(k, h) f = Resize(x, , t)",
        ["float[2] h = {2.0,2.0}"],
    ),
    "sizes for a Resize": (
        "z = Constant<value_ints = [1, 4, 16, 16]>() b = Shape<start=0,end=1>(x) "
        "y = Slice(z, one, four) t = Concat<axis=0>(b, y) a = Resize(x, , , t) f = Resize(a, , , t)",
        ["int64[1] one = {1}", "int64[1] four = {4}"],
    ),
    "one tensor for two CumSums": ("a = CumSum(x, n) b = CumSum<reverse=1>(x, n) f = Add(a, b)", ["int64 n = {1}"]),
    "one tensor for a CumSum and a sum": ("a = CumSum(x, n) f = Add(a, x)", ["int64 n = {1}"]),
    "a graph inside": (INSIDE, ["float k = {0.5}"]),
    "graphs inside graphs": (NESTED, ["float k = {0.5}"]),
    "a loop": (LOOP, ["float k = {0.5}"]),
    "a graph inside and a node outside": (INSIDE.replace(" f = If", " m = If") + " f = Div(m, k)", ["float k = {0.5}"]),
    "the best of a row": ("v, i = TopK(x, n) g = Cast<to=1>(i) z = Sub(g, g) f = Add(v, z)", ["int64[1] n = {3}"]),
    "integers become numbers": ("s = Shape(x) c = Cast<to=1>(s) r = ReduceSum<keepdims=0>(c) f = Div(x, r)", []),
    "a range of numbers": (
        "r = Range(a, b, c) p = Add(x, r) f = Mul(p, r)",
        ["float a = {0.0}", "float b = {8.0}", "float c = {1.0}"],
    ),
    "made of zeros": ("s = Shape(x) z = ConstantOfShape(s) f = Add(x, z)", []),
    "made of ones": ("s = Shape(x) z = ConstantOfShape<value = float[1] {1.0}>(s) f = Add(x, z)", []),
    "a limit left out": ("m = Constant<value_float = 0.25>() a = Clip(x, , m) f = Clip(a, m)", []),
    "least and most": ("a = Max(x, k) f = Min(a, b)", ["float k = {0.0}", "float b = {0.5}"]),
    "where it is masked": (
        "c = Greater(x, k) a = Where(c, x, i) f = Softmax<axis=3>(a)",
        ["float k = {0.0}", "float i = {-1000000000.0}"],
    ),
    "pieces in a sequence": (
        "q = SplitToSequence<axis=1>(x, n) f = ConcatFromSequence<axis=1>(q)",
        ["int64[2] n = {1,3}"],
    ),
    "quantised and back": (
        "a = QuantizeLinear(x, k, z) f = DequantizeLinear(a, k, z)",
        ["float k = {0.01}", "uint8 z = {128}"],
    ),
    "a norm with its means": ("f, m, d = LayerNormalization<axis=3>(x, g, g)", ["float[8] g = {1,1,1,1,1,1,1,1}"]),
    "a batch norm": ("f = BatchNormalization(x, k, k, k, k)", ["float[4] k = {1.0,0.5,1.5,2.0}"]),
    "split in two": ("a, b = Split<axis=1,num_outputs=2>(x) f = Concat<axis=1>(b, a)", []),
    "like another": ("i = Cast<to=7>(x) c = CastLike(i, x) f = Add(c, x)", []),
    "drawn at random and left out": ("r = RandomNormalLike(x) z = Sub(r, r) f = Add(x, z)", []),
    "a padding of minus infinity": (
        "p = Pad(x, n, i) f = MaxPool<kernel_shape=[3,3]>(p)",
        ["int64[8] n = {0,0,1,1,0,0,1,1}", "float i = {-3.4028234e38}"],
    ),
}


def planted(body: str, weights: list[str]) -> onnx.ModelProto:
    text = f"{HEAD} <{', '.join([W, *weights])}> {{ x = Conv(input, w) {body} output = Conv(f, w) }}"
    return onnx.parser.parse_model(text)


def run(graph: onnx.ModelProto, inputs: dict[str, np.ndarray[Any, Any]]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return list(ort.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, inputs))


def images(half: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    drawn = np.random.default_rng(0).normal(size=(2, 4, 8, 8))
    return {"input": drawn.astype(np.float16 if half else np.float32)}


def check_types(graph: onnx.ModelProto) -> None:
    """Fails if a tensor is read in another type than it is made, or made twice."""
    onnx.checker.check_model(graph, full_check=True)
    made = [name for node in graph.graph.node for name in node.output if name]
    made += [value.name for value in (*graph.graph.input, *graph.graph.initializer)]
    assert len(set(made)) == len(made)
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    casts = [(node.input[0], node.attribute[0].i) for node in graph.graph.node if node.op_type == "Cast"]
    assert len(set(casts)) == len(casts), "one cast of a tensor is enough"


def assert_near(got: list[Any], expected: list[Any]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        apart = np.abs(mine.astype(np.float64) - theirs.astype(np.float64)).max()
        assert apart <= 1e-2 * np.abs(theirs).max()


@pytest.mark.parametrize("keep_io", [True, False])
@pytest.mark.parametrize("name", BODIES)
def test_the_fp16_graph_is_strongly_typed_and_computes_the_same(name: str, keep_io: bool) -> None:
    single = planted(*BODIES[name])
    conversion = fp16.convert(single, keep_io=keep_io)
    check_types(conversion.half)
    assert_near(run(conversion.half, images(half=not keep_io)), run(single, images()))
    emulated, largest = fp16_emulation.run_with_range(conversion.half, images())
    assert_near(list(emulated.values()), run(single, images()))
    assert 0 < largest <= 65504
    for node in conversion.nodes:
        check_types(conversion.keeping({node.name}))
    everything = conversion.keeping([node.name for node in conversion.nodes])
    if keep_io:
        np.testing.assert_array_equal(run(everything, images())[0], run(single, images())[0])


@pytest.mark.parametrize("name", [name for name in BODIES if "sequence" not in name and "random" not in name])
def test_tensorrt_takes_the_fp16_graph_as_it_takes_the_fp32_one(name: str) -> None:
    trt = tensorrt.library("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    single = planted(*BODIES[name])

    def taken(graph: onnx.ModelProto) -> bool:
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        return bool(trt.OnnxParser(network, logger).parse(graph.SerializeToString()))

    assert taken(fp16.convert(single, keep_io=True).half) or not taken(single)


ENDS = {
    "an input is the answer": ("(float[2,4] input) => (float[2,4] input, float[2,4] y) {y = Neg(input)}", 2),
    "an answer is read again": ("(float[2,4] input) => (float[2,4] y, float[2,4] z) {y = Neg(input) z = Exp(y)}", 2),
    "an answer of FP32 alone": (
        "(float[2,4] input) => (float[2,4] y, float[2,4] z) <int64 n = {1}> {y = CumSum(input, n) z = Neg(y)}",
        2,
    ),
    "a weight is an answer": (
        "(float[2,4] input) => (float[2,4] y, float[4] k) <float[4] k = {1.0,2.0,3.0,4.0}> {y = Mul(input, k)}",
        2,
    ),
    "an integer is an answer": ("(float[2,4] input) => (int64[2] y) {y = ArgMax<axis=1,keepdims=0>(input)}", 1),
    "names that are taken": (
        "(float[2,4] input) => (float[2,4] y) {x = Neg(input) w = Abs(x) y = Add(w, x)}",
        1,
    ),
    "inputs of integers": (
        "(float[2,4] input) => (float[2,4] y) {i = Cast<to=7>(input) z = Cast<to=1>(i) y = Add(z, input)}",
        1,
    ),
}


@pytest.mark.parametrize("keep_io", [True, False])
@pytest.mark.parametrize("name", ENDS)
def test_graph_inputs_and_outputs_keep_their_names_and_types(name: str, keep_io: bool) -> None:
    text, count = ENDS[name]
    single = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    if name == "names that are taken":
        for node in single.graph.node:
            node.input[:] = ["input/fp16" if each == "x" else each for each in node.input]
            node.output[:] = ["input/fp16" if each == "x" else each for each in node.output]
    conversion = fp16.convert(single, keep_io=keep_io)
    check_types(conversion.half)
    ends = (*conversion.half.graph.input, *conversion.half.graph.output)
    kinds = {value.type.tensor_type.elem_type for value in ends} - {TensorProto.INT64}
    assert kinds == {TensorProto.FLOAT if keep_io else TensorProto.FLOAT16}
    assert [value.name for value in conversion.half.graph.output] == [value.name for value in single.graph.output]
    given = np.array([[1.0, -2.0, 3.0, 0.5], [0.25, 1.0, -1.5, 2.0]])
    mine = run(conversion.half, {"input": given.astype(np.float32 if keep_io else np.float16)})
    assert len(mine) == count
    assert_near(mine, run(single, {"input": given.astype(np.float32)}))


def test_infinite_weights_stay_infinite_and_non_zero_weights_stay_non_zero() -> None:
    values = "{inf, -inf, 1e30, -1e30, 1e-30, -1e-30, 0.0, 1.0}".replace("inf", "3.4e38")
    single = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[8] input) => (float[8] y) <float[8] k = {values}> '
        "{y = Add(input, k)}"
    )
    array = np.array([np.inf, -np.inf, 1e30, -1e30, 1e-30, -1e-30, 0.0, 1.0], np.float32)
    single.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "k"))
    (weight,) = fp16.convert(single, keep_io=True).half.graph.initializer
    got = onnx.numpy_helper.to_array(weight)
    least = np.float16(2.0**-24)
    np.testing.assert_array_equal(got, np.array([np.inf, -np.inf, 65504, -65504, least, -least, 0, 1], np.float16))


@pytest.mark.parametrize(
    ("name", "exporter"),
    [("Pyramid", "torchscript"), ("bilinear", "torchscript"), ("Pyramid", "dynamo"), ("bilinear", "dynamo")],
)
def test_a_feature_pyramid_passes_the_whole_pipeline(name: str, exporter: str, walk: Walk) -> None:
    written = walk(f"pyramid:{name}", ["3x32x32"], exporter)
    assert verdict.failed_lines(written) == ()
    (engine,) = written.engines
    assert engine.layers["HALF"] > engine.layers["FLOAT"]
