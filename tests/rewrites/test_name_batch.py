from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from deploytool.rewrites import recipes
from tests.rewrites.builder import SIZE, GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "name_batch"
Dim = int | str | None


def shape_annotations(model: onnx.ModelProto) -> dict[str, list[Dim]]:
    """The annotated shapes of the intermediate tensors, by name."""
    return {
        value.name: [dim.dim_param or dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }


def shuffle_unit(net: GraphBuilder) -> onnx.ModelProto:
    """A channel shuffle between two convolutions, with a residual connection around them."""
    wide = net.conv("image", 16)
    last = net.conv(net.shuffle(net.conv(wide, 16, groups=4), 4), 16, groups=4)
    return net.model(net.conv(net.op("Relu", net.op("Add", last, wide)), 16))


def to_fp32(model: onnx.ModelProto) -> bytes:
    """The serialised model, converted to FP32."""
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    for weight in converted.graph.initializer:
        if weight.data_type == TensorProto.DOUBLE:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    for value in (*converted.graph.input, *converted.graph.output, *converted.graph.value_info):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return bytes(converted.SerializeToString())


def optimised_ops(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators of a graph after ONNX Runtime's optimisations."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(to_fp32(model), options, providers=["CPUExecutionProvider"])
    return op_types(onnx.load(options.optimized_model_filepath))


def test_tensors_after_a_reshape_get_a_named_batch(tmp_path: Path) -> None:
    model = shuffle_unit(GraphBuilder(8))
    after = assert_exact(model, NAME, 6)
    split = {name: shape for name, shape in shape_annotations(after).items() if len(shape) == 5}
    assert sorted(map(str, split.values())) == [f"['batch', 4, 4, {SIZE}, {SIZE}]"] * 2
    assert all(shape[0] == "batch" for shape in shape_annotations(after).values())
    assert [node.SerializeToString() for node in after.graph.node] == [
        node.SerializeToString() for node in model.graph.node
    ]
    assert "Add" in optimised_ops(model, tmp_path)
    assert not {"Add", "Relu"} & set(optimised_ops(after, tmp_path))  # fused into the convolution before


def test_only_the_batch_gets_its_name() -> None:
    net = GraphBuilder(35)  # the product of the two batch sizes that shapes are inferred for
    folded = net.op("Reshape", "image", net.weight(np.array([-1, 7, SIZE, SIZE])))  # five times the batch
    again = net.op("Reshape", net.op("Relu", folded), net.weight(np.array([-1, 5, 7, SIZE, SIZE])))
    after = assert_exact(net.model(net.op("Relu", again)), NAME, 1)
    assert shape_annotations(after)[again] == ["batch", 5, 7, SIZE, SIZE]
    assert shape_annotations(after)[folded][0] != "batch"


def test_graphs_with_other_dynamic_dimensions_are_skipped() -> None:
    model = shuffle_unit(GraphBuilder(8))
    height = model.graph.input[0].type.tensor_type.shape.dim[2]
    height.dim_param = "height"
    assert_skipped(model, NAME, "not the only dynamic dimension")
    height.dim_value = SIZE
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    assert_skipped(model, NAME, "not the only dynamic dimension")


def test_it_is_the_last_rewrite_of_every_recipe() -> None:
    assert all(recipe[-1] == NAME for recipe in recipes.RECIPES.values() if recipe)
