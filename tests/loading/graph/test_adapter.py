from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from deploytool.errors import BadInput
from deploytool.loading.graph import definition, layout, source

PRODUCT = """<ir_version: 8, opset_import: ["": 18]>
g (float[N,8] x, float[N,8] z) => (float[N,8] y) {
  y = Sub(x, z)
}"""
REPEATED = """<ir_version: 8, opset_import: ["": 18]>
g (float[5,batch,8] x) => (float[5,batch,8] y, float[5,batch,8] y) {
  y = Tanh(x)
}"""
LOOP = """<ir_version: 8, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,8] y) {
  count = Constant<value_int: int = 3>()
  one = Constant<value_int: int = 1>()
  go = Cast<to: int = 9>(one)
  y = Loop<body: graph = body (int64 i, bool go_in, float[N,8] in_0) => (bool go_out, float[N,8] next)
    {
      go_out = Identity(go_in)
      next = Tanh(in_0)
    }>(count, go, x)
}"""
PASSED = """<ir_version: 8, opset_import: ["": 18]>
g (float[5,batch,8] x) => (float[5,batch,8] x, float[5,batch,8] y) {
  y = Tanh(x)
}"""


def renamed(text: str, **names: str) -> onnx.ModelProto:
    """The graph with other names for tensors; the text form of onnx has letters, digits and `_` alone."""
    graph = parser.parse_model(text)
    for node in graph.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = names.get(value.name, value.name)
    return graph


def run(graph: onnx.ModelProto, inputs: dict[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, inputs)]


@pytest.mark.parametrize(
    ("given", "inputs", "outputs"),
    [
        (renamed(PRODUCT, x="a:0", z="a/0", y="a_0"), ["a_0_2", "a_0_3"], ["a_0"]),
        (renamed(PRODUCT, x="a:0", z="a_0"), ["a_0_2", "a_0"], ["y"]),
        (renamed(PRODUCT, x="y_2", z="x", y="y:2"), ["y_2", "x"], ["y_2_2"]),
        (renamed(REPEATED, y="y:0"), ["x"], ["y_0", "y_0_2"]),
        (renamed(REPEATED), ["x"], ["y", "y_2"]),
        (renamed(LOOP, x="in:0"), ["in_0"], ["y"]),
        (renamed(PASSED), ["x"], ["x_2", "y"]),
    ],
    ids=["both meet an output", "one meets an input", "an output", "renamed twice", "twice", "a body", "passed"],
)
def test_tensors_with_new_names_are_those_of_the_file(
    given: onnx.ModelProto, inputs: list[str], outputs: list[str], tmp_path: Path
) -> None:
    onnx.save(given, tmp_path / "net.onnx")
    model = definition.read(tmp_path / "net.onnx", "net", [])
    adapted = source.graph(model)
    assert [value.name for value in adapted.graph.input] == inputs
    assert [value.name for value in adapted.graph.output] == outputs
    rng = np.random.default_rng(3)
    cases = {tensor.name: rng.standard_normal((2, *rest(tensor.shape)), np.float32) for tensor in model.inputs}
    assert model.given is not None
    expected = run(given, layout.to_file(model, cases))
    for place, answer, reference in zip(model.given.outputs, run(adapted, cases), expected, strict=True):
        np.testing.assert_array_equal(answer, layout.from_file(place, reference))


def rest(shape: tuple[int | str, ...]) -> list[int]:
    return [int(size) for size in shape[1:]]


def test_an_old_file_whose_weights_are_no_inputs_becomes_valid(tmp_path: Path) -> None:
    given = parser.parse_model("""<ir_version: 3, opset_import: ["": 8]>
        g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }""")
    given.graph.initializer.append(numpy_helper.from_array(np.ones((8, 4), np.float32), "w"))
    onnx.save(given, tmp_path / "net.onnx")
    adapted = source.graph(definition.read(tmp_path / "net.onnx", "net", []))
    onnx.checker.check_model(adapted)
    assert adapted.ir_version == 4


def test_later_stages_get_the_nodes_of_functions(tmp_path: Path) -> None:
    given = parser.parse_model("""<ir_version: 8, opset_import: ["": 18, "own": 1]>
        g (float[N,8] x) => (float[N,8] y) { a = Tanh(x)  y = own.Relu(a) }
        <domain: "own", opset_import: ["": 18]> Relu (X) => (Y) { Y = Neg(X) }""")
    onnx.save(given, tmp_path / "net.onnx")
    adapted = source.graph(definition.read(tmp_path / "net.onnx", "net", []))
    assert [(node.domain, node.op_type) for node in adapted.graph.node] == [("", "Tanh"), ("", "Neg")]
    assert not adapted.functions
    assert [entry.domain for entry in adapted.opset_import] == [""]


def test_random_numbers_inside_a_function_are_refused(tmp_path: Path) -> None:
    given = parser.parse_model("""<ir_version: 8, opset_import: ["": 18, "own": 1]>
        g (float[N,8] x) => (float[N,8] y) { y = own.Noisy(x) }
        <domain: "own", opset_import: ["": 18]> Noisy (X) => (Y) { R = RandomNormalLike(X)  Y = Add(X, R) }""")
    onnx.save(given, tmp_path / "net.onnx")
    model = definition.read(tmp_path / "net.onnx", "net", [])
    with pytest.raises(BadInput, match="draws random numbers"):
        source.graph(model)
