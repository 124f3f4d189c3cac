from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from deploytool.errors import BadInput, StageFailed
from deploytool.loading.graph.interpreter import GraphModule
from deploytool.loading.module import fp64


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    body = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def convolution() -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    names, shapes = ("w.0", "b", "scale", "bias", "mean", "var"), ((4, 3, 3, 3), *[(4,)] * 5)
    constants = {name: rng.uniform(0.5, 1.5, shape).astype("f") for name, shape in zip(names, shapes, strict=True)}
    nodes = [
        helper.make_node("Conv", ["x", "w.0", "b"], ["conv"], "/stem/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["conv", "scale", "bias", "mean", "var"], ["norm"], "/stem/norm"),
        helper.make_node("Relu", ["norm"], ["y"]),
        helper.make_node("GlobalAveragePool", ["y"], ["pooled"]),
    ]
    outputs = [value("y", ["n", 4, 8, 8]), value("pooled", ["n", 4, 1, 1])]
    return graph(nodes, [value("x", ["n", 3, 8, 8])], outputs, constants), constants


def expected(x: torch.Tensor, arrays: dict[str, np.ndarray[Any, Any]]) -> torch.Tensor:
    weights = {name: torch.from_numpy(array).to(x.dtype) for name, array in arrays.items()}
    conv = functional.conv2d(x, weights["w.0"], weights["b"], padding=1)
    norm = functional.batch_norm(conv, weights["mean"], weights["var"], weights["scale"], weights["bias"])
    return norm.relu()


def test_a_graph_is_computed_and_its_outputs_have_its_names_in_order() -> None:
    model, arrays = convolution()
    module, x = GraphModule(model), torch.randn(2, 3, 8, 8)
    results = module(x)
    assert list(results) == ["y", "pooled"]
    torch.testing.assert_close(results["y"], expected(x, arrays))
    torch.testing.assert_close(results["pooled"], expected(x, arrays).mean((2, 3), keepdim=True))


def test_fp64_computes_with_the_weights_of_the_file() -> None:
    model, arrays = convolution()
    module, x = GraphModule(model), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with fp64.run(module):
        result = module(x)["y"]
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, expected(x, arrays), rtol=1e-12, atol=1e-12)


def test_every_node_is_a_module_and_every_weight_is_in_the_state() -> None:
    module, seen = GraphModule(convolution()[0]), list[str]()
    for name, part in module.named_children():
        part.register_forward_hook(lambda *_, name=name: seen.append(module.node_names[name]))
    module(torch.randn(1, 3, 8, 8))
    assert seen == ["/stem/Conv", "/stem/norm", "y", "pooled"]
    assert list(module.node_names) == ["_stem_Conv", "_stem_norm", "y", "pooled"]
    assert module.initializer_names["w_0"] == "w.0"
    assert set(module.state_dict()) == {"w_0", "b", "scale", "bias", "mean_running_mean", "var_running_var"}


def test_the_state_loads_into_another_module_of_the_graph() -> None:
    model, _ = convolution()
    module, other, x = GraphModule(model), GraphModule(model), torch.randn(1, 3, 8, 8)
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x)["y"], module(x)["y"])


def test_sizes_computed_from_a_shape_are_computed_as_in_the_file_in_fp64_too() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Floor", ["scaled"], ["floor"]),
        helper.make_node("Cast", ["floor"], ["size"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
    ]
    # 3 × 0.333333343 is 1 in FP32, and its product with 3 in FP64 is above 1; with 0.33333331 it is below
    scale = np.array([0.33333331, 2.3333333], "f")
    model = graph(nodes, [value("x", ["a", "b"])], [value("zeros", ["c", "d"])], {"scale": scale})
    sizes = np.floor(np.array([3, 3], "f") * scale).astype(int).tolist()
    module = GraphModule(model)
    with fp64.run(module):
        assert list(module(torch.zeros(3, 3, dtype=torch.float64))["zeros"].shape) == sizes


def test_the_scales_of_a_resize_are_not_rounded_with_the_weights() -> None:
    constants = {"scales": np.array([1, 1, 1.7, 1.7], "f"), "w": np.array([1, 1, 1.7, 1.7], "f")}
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["resized"], mode="linear"),
        helper.make_node("Mul", ["resized", "w"], ["y"]),
    ]
    module = GraphModule(graph(nodes, [value("x", [1, 1, 10, 10])], [value("y", [1, 1, "h", "w"])], constants))
    assert set(module.state_dict()) == {"w"}


def test_an_epsilon_that_fp16_flushes_is_no_part_of_the_state() -> None:
    nodes = [helper.make_node("Add", ["x", "epsilon"], ["y"]), helper.make_node("Mul", ["y", "factor"], ["z"])]
    constants = {"epsilon": np.array(1e-12, "f"), "factor": np.array(0.5, "f")}
    module = GraphModule(graph(nodes, [value("x", [2])], [value("z", [2])], constants))
    assert set(module.state_dict()) == {"factor"}
    torch.testing.assert_close(module(torch.zeros(2))["z"], torch.full((2,), 5e-13))
    with fp64.run(module):
        result = module(torch.zeros(2, dtype=torch.float64))["z"]
    assert result.dtype == torch.float64


def test_an_fp16_graph_is_its_own_arithmetic_in_higher_precision() -> None:
    weight = np.array([[1 / 3, 2049], [1e-7, 7]], np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["half", "w"], ["product"]),
        helper.make_node("MatMul", ["product", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT),
    ]
    outputs = [value("y", [1, 2], TensorProto.FLOAT16), value("z", [1, 2])]
    module = GraphModule(graph(nodes, [value("x", [1, 2])], outputs, {"w": weight}))
    x, exact = torch.tensor([[0.1, 3.3]]), torch.from_numpy(weight.astype(np.float64))
    truth = x.half().double() @ exact @ exact
    results = module(x)
    assert (results["y"].dtype, results["z"].dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(results["y"], truth.half(), rtol=0, atol=0)
    torch.testing.assert_close(results["z"], truth.float(), rtol=1e-6, atol=0)
    with fp64.run(module):
        wide = module(x.double())
    torch.testing.assert_close(wide["y"], truth, rtol=1e-14, atol=0)
    torch.testing.assert_close(wide["z"], truth, rtol=1e-14, atol=0)


def test_a_loop_reads_and_changes_values_of_the_graph_around_it() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "step"], ["next"]),
            helper.make_node("Mul", ["next", "scale"], ["scaled"]),
            helper.make_node("Identity", ["go"], ["goes_on"]),
        ],
        "body",
        [value("turn", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [2])],
        [value("goes_on", [], TensorProto.BOOL), value("next", [2]), value("scaled", [2])],
        [numpy_helper.from_array(np.array(0.5, "f"), "scale")],
    )
    branches = [
        helper.make_graph([helper.make_node(kind, ["last"], [name])], name, [], [value(name, [2])])
        for kind, name in (("Neg", "negative"), ("Identity", "same"))
    ]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["step"]),
        helper.make_node("Loop", ["count", "", "x"], ["last", "all"], "loop", body=body),
        helper.make_node("If", ["flag"], ["y"], "choice", then_branch=branches[0], else_branch=branches[1]),
    ]
    inputs = [value("x", [2]), value("flag", [], TensorProto.BOOL)]
    model = graph(nodes, inputs, [value("y", [2]), value("all", [3, 2])], {"count": np.array(3)})
    module, x = GraphModule(model), torch.tensor([1.0, 2.0])
    for flag in (True, False):
        results = module(x, torch.tensor(flag))
        assert results["y"].tolist() == ((-7 * x) if flag else 7 * x).tolist()
        assert results["all"].tolist() == [(number * x / 2).tolist() for number in (3, 5, 7)]
    assert {"loop.body.next", "loop.body.scaled", "choice.then_branch.negative"} <= {*dict(module.named_modules())}


@pytest.mark.parametrize("double", [False, True])
def test_a_loop_without_turns_gathers_no_rows(double: bool) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes_on"]), *[helper.make_node("Neg", ["state"], ["next"])]],
        "body",
        [value("turn", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", ["n", 2])],
        [value("goes_on", [], TensorProto.BOOL), value("next", ["n", 2]), value("next", ["n", 2])],
    )
    model = graph(
        [helper.make_node("Loop", ["count", "", "x"], ["last", "all"], "loop", body=body)],
        [value("x", ["n", 2])],
        [value("last", ["n", 2]), value("all", ["turns", "n", 2])],
        {"count": np.array(0)},
    )
    module, x = GraphModule(model), torch.ones(3, 2)
    with fp64.run(module) if double else nullcontext():
        results = module(x.double() if double else x)
    assert results["last"].tolist() == x.tolist()
    assert tuple(results["all"].shape) == (0, 3, 2)
    assert results["all"].dtype == results["last"].dtype


def test_a_scan_over_nothing_gathers_no_rows_along_its_axis() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "row"], ["next"]), helper.make_node("Neg", ["next"], ["negative"])],
        "body",
        [value("state", [2]), value("row", [2])],
        [value("next", [2]), value("negative", [2])],
    )
    scan = helper.make_node("Scan", ["x", "rows"], ["last", "all"], "scan", body=body, num_scan_inputs=1)
    scan.attribute.append(helper.make_attribute("scan_output_axes", [1]))
    model = graph([scan], [value("x", [2]), value("rows", ["n", 2])], [value("last", [2]), value("all", [2, "n"])])
    results = GraphModule(model)(torch.ones(2), torch.zeros(0, 2))
    assert results["last"].tolist() == [1, 1]
    assert tuple(results["all"].shape) == (2, 0)


def test_a_tensor_is_released_when_no_later_node_reads_it() -> None:
    model, _ = convolution()
    module, alive = GraphModule(model), list[weakref.ref[torch.Tensor]]()
    module.get_submodule("_stem_Conv").register_forward_hook(lambda *given: alive.append(weakref.ref(given[-1])))
    still_there: list[bool] = []
    module.get_submodule("y").register_forward_hook(lambda *_: still_there.append(alive[0]() is not None))
    module(torch.randn(1, 3, 8, 8))
    assert still_there == [False]


def test_a_large_weight_is_copied_once() -> None:
    weight = np.ones((256, 256), np.float32)
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 256])], [value("y", [1, 256])], {"w": weight}
    )
    module = GraphModule(model)
    assert isinstance(module.get_parameter("w"), torch.nn.Parameter)
    assert not module.get_parameter("w").requires_grad
    module.get_parameter("w").mul_(2)  # writable, and not the bytes of the file
    assert model.graph.initializer[0].raw_data == weight.tobytes()


def test_modes_that_intercept_torch_calls_see_every_node() -> None:
    model, _ = convolution()
    seen: list[str] = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    module = GraphModule(model)
    with Seen():
        module(torch.randn(1, 3, 8, 8))
    calls = ["conv2d", "batch_norm", "relu", "mean"]
    assert [name for name in seen if name in calls] == calls


def test_an_operator_without_torch_is_computed_by_the_reference_evaluator() -> None:
    nodes = [helper.make_node("Unique", ["x"], ["y"])]
    module = GraphModule(graph(nodes, [value("x", [4])], [value("y", ["n"])]))
    assert module(torch.tensor([2.0, 1.0, 2.0, 3.0]))["y"].tolist() == [1, 2, 3]
    assert module.reference_operators() == {"Unique": 1}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Scales", ["x"], ["y"], "odd"), r"odd \(Scales\) has no implementation"),
        (helper.make_node("Scales", ["x"], ["y"], domain="own"), "imports no opset of it"),
        (helper.make_node("RandomNormalLike", ["x"], ["y"]), "draws random numbers"),
    ],
)
def test_a_node_that_cannot_be_computed_is_named(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(StageFailed, match=message):
        GraphModule(graph([node], [value("x", [4])], [value("y", [4])]))


def test_a_dropout_in_training_is_refused_and_one_in_evaluation_is_not() -> None:
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"], "drop")
    inputs, constants = [value("x", [4])], {"ratio": np.array(0.5, "f"), "training": np.array(True)}
    with pytest.raises(StageFailed, match=r"drop \(Dropout\) drops random elements"):
        GraphModule(graph([node], inputs, [value("y", [4])], constants))(torch.ones(4))
    constants["training"] = np.array(False)
    assert GraphModule(graph([node], inputs, [value("y", [4])], constants))(torch.ones(4))["y"].tolist() == [1] * 4


def test_a_node_that_fails_is_named_with_the_shapes_of_its_inputs() -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"], "product")]
    module = GraphModule(graph(nodes, [value("x", ["a", "b"])], [value("y", ["a", "b"])]))
    with pytest.raises(
        StageFailed, match=r"product \(MatMul\) cannot be computed for inputs of shape \(2, 3\), \(2, 3\)"
    ):
        module(torch.zeros(2, 3))


def test_an_old_opset_and_a_wrong_number_of_inputs_are_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(BadInput, match="opset 6"):
        GraphModule(graph([node], [value("x", [1])], [value("y", [1])], opset=6))
    with pytest.raises(BadInput, match=r"has 1 inputs \(x\), not 2"):
        GraphModule(graph([node], [value("x", [1])], [value("y", [1])]))(torch.zeros(1), torch.zeros(1))


FUNCTIONS = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
outer (float[N,8] x) => (float[N,8] y) { y = local.twice(x) }
<domain: "local", opset_import: ["": 17, "local": 1]>
twice (a) => (b) { c = local.once(a) b = Add(c, c) }
<domain: "local", opset_import: ["": 12]>
once (a) => (b) { b = Relu(a) }"""


def test_a_function_that_cannot_be_inlined_is_refused_without_the_source_files_of_onnx() -> None:
    with pytest.raises(StageFailed, match=r"^the functions of the graph cannot be inlined: Type unknown for c__1$"):
        GraphModule(parser.parse_model(FUNCTIONS))
