from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from deploytool.rewrites import recipes
from tests.rewrites.drawing import SIZE, Drawing, kinds, proved, refused

NAME = "name_batch"
Side = int | str | None


def shapes(model: onnx.ModelProto) -> dict[str, list[Side]]:
    """What a model says of the shapes of the tensors on the way."""
    return {
        value.name: [side.dim_param or side.dim_value or None for side in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }


def unit(net: Drawing) -> onnx.ModelProto:
    """A shuffle between two convolutions, and what came in added to what comes out."""
    wide = net.conv("picture", 16)
    last = net.conv(net.shuffle(net.conv(wide, 16, groups=4), 4), 16, groups=4)
    return net.model(net.conv(net.op("Relu", net.op("Add", last, wide)), 16))


def single(model: onnx.ModelProto) -> bytes:
    """The same in FP32."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for weight in found.graph.initializer:
        if weight.data_type == TensorProto.DOUBLE:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    for value in (*found.graph.input, *found.graph.output, *found.graph.value_info):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return bytes(found.SerializeToString())


def optimised(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime makes of a graph."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(single(model), options, providers=["CPUExecutionProvider"])
    return kinds(onnx.load(options.optimized_model_filepath))


def test_what_comes_after_a_reshape_has_the_batch_for_its_first_side(tmp_path: Path) -> None:
    model = unit(Drawing(8))
    after = proved(model, NAME, 6)
    dealt = {name: shape for name, shape in shapes(after).items() if len(shape) == 5}
    assert sorted(map(str, dealt.values())) == [f"['batch', 4, 4, {SIZE}, {SIZE}]"] * 2
    assert all(shape[0] == "batch" for shape in shapes(after).values())
    assert [node.SerializeToString() for node in after.graph.node] == [
        node.SerializeToString() for node in model.graph.node
    ]
    assert "Add" in optimised(model, tmp_path)
    assert not {"Add", "Relu"} & set(optimised(after, tmp_path))  # computed within the convolution before


def test_only_what_is_the_batch_is_called_so() -> None:
    net = Drawing(35)  # as many channels as both batches that shapes are tried with make together
    folded = net.op("Reshape", "picture", net.weight(np.array([-1, 7, SIZE, SIZE])))  # five times the batch
    again = net.op("Reshape", net.op("Relu", folded), net.weight(np.array([-1, 5, 7, SIZE, SIZE])))
    after = proved(net.model(net.op("Relu", again)), NAME, 1)
    assert shapes(after)[again] == ["batch", 5, 7, SIZE, SIZE]
    assert shapes(after)[folded][0] != "batch"


def test_other_free_sizes_are_left_to_inference() -> None:
    model = unit(Drawing(8))
    side = model.graph.input[0].type.tensor_type.shape.dim[2]
    side.dim_param = "height"
    refused(model, NAME, "other sizes than the batch are free")
    side.dim_value = SIZE
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    refused(model, NAME, "or none is")


def test_it_is_the_last_of_every_recipe() -> None:
    assert all(recipe[-1] == NAME for recipe in recipes.RECIPES.values() if recipe)
