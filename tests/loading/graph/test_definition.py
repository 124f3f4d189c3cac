from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from deploytool.cli import params
from deploytool.errors import BadInput
from deploytool.host import machine
from deploytool.loading import catalog
from deploytool.loading.graph import definition, trial
from deploytool.spec import Fill, GivenTensor, Model, Tensor
from tests import given_graphs

BFLOAT16 = """<ir_version: 8, opset_import: ["": 18]>
narrow (float[batch,8] x) => (float[batch,4] y) {
  a = Cast<to=16>(x)
  b = Cast<to=16>(first)
  c = MatMul(a, b)
  y = Cast<to=1>(c)
}"""


def read(graph: onnx.ModelProto, tmp_path: Path, *inputs: str) -> Model:
    onnx.save(graph, tmp_path / "net.onnx")
    return definition.read(tmp_path / "net.onnx", "net", params.tensors(inputs))


def with_shapes(
    *shapes: list[int | str | None], outputs: tuple[list[int | str | None], ...] = ([],)
) -> onnx.ModelProto:
    """A graph with inputs and outputs of these shapes; it computes nothing useful."""
    inputs = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, shape) for n, shape in enumerate(shapes)]
    made = [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, shape) for n, shape in enumerate(outputs)]
    nodes = [helper.make_node("Relu", ["x0"], [value.name]) for value in made]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, made), ir_version=8, opset_imports=[helper.make_opsetid("", 18)]
    )


def test_inputs_types_and_dynamic_dimensions_come_from_the_file(tmp_path: Path) -> None:
    model = read(given_graphs.tokens(), tmp_path)
    assert model.inputs == (
        Tensor("ids", ("batch", "seq"), "int64", below=50),
        Tensor("attention_mask", ("batch", "seq"), "int64", below=2, fill=Fill.MASK),
    )
    assert model.given is not None
    assert model.given.batch is None
    assert model.given.opset == 18


def test_token_ids_are_rows_of_the_smallest_table_that_they_index(tmp_path: Path) -> None:
    graph = given_graphs.tokens()
    small = onnx.numpy_helper.from_array(np.zeros((20, 8), np.float32), "small")
    graph.graph.initializer.append(small)
    graph.graph.node.insert(0, helper.make_node("Cast", ["ids"], ["ids32"], to=TensorProto.INT32))
    graph.graph.node.insert(1, helper.make_node("Gather", ["small", "ids32"], ["unused"]))
    assert read(graph, tmp_path).inputs[0].below == 20


@pytest.mark.parametrize(
    ("shapes", "outputs", "axes", "batch"),
    [
        ([["N", 3]], [["N", 2]], [0], None),
        ([[None, 3]], [[None, 2]], [0], None),
        ([["batch", 3], ["batch", 4]], [["batch"]], [0, 0], None),
        ([["unk__1", 3], ["unk__2", 4]], [[None]], [0, 0], None),
        ([["seq", "batch", 4]], [["seq", "batch"]], [1], None),
        ([["seq", 80]], [["seq", 10]], [None], 1),  # a length, and no batch
        ([[1, 3, 8, 8]], [[1, 10]], [0], 1),
        ([[4, 3]], [[4, 2]], [0], 4),
        ([[4, 3]], [[2]], [None], 1),  # 4 is no batch: the output has none
        ([[]], [[]], [None], 1),
        ([["N", 4], [2, "N", 4], []], [["N", 4]], [0, 1, None], 1),
        ([["N", 4], [1, 7]], [["N", 4]], [0, 0], 1),
    ],
)
def test_the_batch_is_found(
    shapes: list[list[int | str | None]],
    outputs: list[list[int | str | None]],
    axes: list[int | None],
    batch: int | None,
    tmp_path: Path,
) -> None:
    given = read(with_shapes(*shapes, outputs=tuple(outputs)), tmp_path).given
    assert given is not None
    assert [place.batch_axis for place in given.inputs] == axes
    assert given.batch == batch


def test_the_model_has_its_batch_first_and_words_for_dimensions_without_one(tmp_path: Path) -> None:
    model = read(with_shapes(["h+w", "N", None, 5], outputs=(["N"],)), tmp_path)
    assert [tensor.shape for tensor in model.inputs] == [("batch", "h_w", "x0_2", 5)]


def test_names_that_files_may_not_support_are_replaced(tmp_path: Path) -> None:
    graph = with_shapes(["N", 3], ["N", 4])
    for value, name in zip(graph.graph.input, ("in:0", "in/0"), strict=True):
        value.name = name
    graph.graph.node[0].input[0] = "in:0"
    model = read(graph, tmp_path)
    assert [tensor.name for tensor in model.inputs] == ["in_0", "in_0_2"]
    assert model.given is not None
    assert model.given.inputs == (GivenTensor("in:0"), GivenTensor("in/0"))


def test_the_user_settles_dynamic_dimensions_and_bounds(tmp_path: Path) -> None:
    model = read(given_graphs.tokens(), tmp_path, "ids=16:int64:7")
    assert model.inputs[0] == Tensor("ids", ("batch", 16), "int64", below=7)
    assert model.inputs[1].shape == ("batch", "seq")
    assert read(given_graphs.mlp(), tmp_path, "8").inputs == (Tensor("x", ("batch", 8)),)  # the only input, unnamed


@pytest.mark.parametrize(
    ("declared", "problem", "remedy"),
    [
        ("y=8", "net.onnx has no input y", "its inputs are: x"),
        ("x=9", "net.onnx: the input x is 8, not 9", "write --input x=8"),
        ("x=8x8", "net.onnx: the input x is 8, not 8x8", "write --input x=8"),
        ("x=8:int64", "net.onnx: the input x is float32, not int64", "write --input x=8:float32"),
    ],
)
def test_a_declaration_that_contradicts_the_file_is_refused(
    declared: str, problem: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as raised:
        read(given_graphs.mlp(), tmp_path, declared)
    assert str(raised.value).endswith(problem)
    assert raised.value.remedy == remedy


@pytest.mark.parametrize(
    ("element", "kind"),
    [(TensorProto.BFLOAT16, "bfloat16"), (TensorProto.STRING, "string"), (TensorProto.UINT16, "uint16")],
)
def test_an_input_type_without_support_is_refused(element: int, kind: str, tmp_path: Path) -> None:
    graph = with_shapes(["N", 3])
    graph.graph.input[0].type.tensor_type.elem_type = element
    with pytest.raises(BadInput, match=f"the input x0 is of {kind}") as raised:
        read(graph, tmp_path)
    assert ("model.float()" in raised.value.remedy) == (kind == "bfloat16")


def test_an_input_without_a_type_is_refused_as_such(tmp_path: Path) -> None:
    graph = with_shapes(["N", 3])
    graph.graph.input[0].ClearField("type")
    with pytest.raises(BadInput, match=r"the input x0 has no type$"):
        read(graph, tmp_path)


def test_the_catalog_finds_a_file_by_its_suffix_and_needs_no_declared_inputs(tmp_path: Path) -> None:
    onnx.save(given_graphs.mlp(), tmp_path / "My Net.ONNX")
    model = catalog.find(str(tmp_path / "My Net.ONNX"))
    assert (model.name, model.factory) == ("My Net", str(tmp_path / "My Net.ONNX"))
    with pytest.raises(BadInput, match="takes no argument width"):
        catalog.find(model.factory, (), {"width": 2})


def test_a_graph_that_onnx_runtime_cannot_compute_in_bf16_is_refused_with_its_conversion(tmp_path: Path) -> None:
    graph = given_graphs.model(BFLOAT16, given_graphs.weights(first=(8, 4)))
    onnx.save(graph, tmp_path / "net.onnx")
    model = definition.read(tmp_path / "net.onnx", "net", ())
    with pytest.raises(BadInput, match=r"computes in BF16, and ONNX Runtime cannot load it: .*MatMul") as raised:
        trial.run(model, [{"x": np.zeros((2, 8), np.float32)}])
    assert "model.float()" in raised.value.remedy


def test_a_graph_that_fails_on_its_inputs_is_refused_with_their_shapes(tmp_path: Path) -> None:
    onnx.save(given_graphs.mlp(), tmp_path / "net.onnx")
    model = definition.read(tmp_path / "net.onnx", "net", ())
    (tensor,) = model.inputs
    wider = np.zeros((2, int(tensor.shape[1]) + 1), np.float32)
    with pytest.raises(BadInput, match=rf"cannot run .*net\.onnx on {tensor.name} \(2, {wider.shape[1]}\): ") as raised:
        trial.run(model, [{tensor.name: wider}])
    assert "--inputs FILE.npz" in raised.value.remedy


def test_a_graph_that_takes_one_case_is_refused_with_the_option_for_it(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        one (float[N,2,4] x) => (float[N,8] y) {
          shape = Constant<value_ints=[1,8]>()
          y = Reshape(x, shape)
        }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    model = definition.read(tmp_path / "net.onnx", "net", ())
    with pytest.raises(BadInput, match="cannot run") as raised:
        trial.run(model, [{"x": np.zeros((2, 2, 4), np.float32)}])
    assert "--batch 1;" in raised.value.remedy


def test_a_graph_that_is_too_new_for_onnx_runtime_is_refused_with_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        g (float[N,8] x) => (float[N,8] y) { y = Relu<unknown=1>(x) }"""  # what an older runtime does not know
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    model = definition.read(tmp_path / "net.onnx", "net", ())
    monkeypatch.setattr(machine, "version", lambda name: "1.15.1" if name == "onnxruntime" else None)
    for opset, remedy in (
        (18, "export it again with standard operators"),
        (20, "reads opsets up to 19, and the graph"),
    ):
        graph = onnx.load(tmp_path / "net.onnx")
        graph.opset_import[0].version = opset
        onnx.save(graph, tmp_path / "net.onnx")
        with pytest.raises(BadInput, match="cannot load") as raised:
            trial.run(model, [{"x": np.zeros((2, 8), np.float32)}])
        assert remedy in raised.value.remedy


def test_an_output_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, ["N", 1])],
    )
    with pytest.raises(BadInput, match="the output parts is not a tensor but of the kind sequence"):
        read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path)
