from __future__ import annotations

import onnx

from deploytool.rewrites import forms
from deploytool.rewrites.graph.editable import attributes
from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "pool_by_window"


def classifier(net: GraphBuilder, source: str) -> onnx.ModelProto:
    """A global average pooling and a classifier."""
    flattened = net.op("Flatten", net.op("GlobalAveragePool", source), axis=1)
    return net.model(net.op("Gemm", flattened, net.weight(net.rng.normal(size=(net.channels[source], 5)))))


def test_global_pooling_before_a_classifier() -> None:
    net = GraphBuilder(4)
    after = assert_exact(classifier(net, net.op("Relu", net.conv("image", 8, 3, stride=2))), NAME, 1)
    assert op_types(after) == ["Conv", "Relu", "AveragePool", "Flatten", "Gemm"]
    assert list(attributes(after.graph.node[2])["kernel_shape"]) == [4, 4]


def test_it_makes_no_form_of_its_own() -> None:
    net = GraphBuilder(4)
    (only,) = forms.candidates(classifier(net, net.op("Relu", net.conv("image", 8, 3))))
    assert only.name == "original"
    assert only.outcomes[NAME].skipped == ("no other rewrite of its recipe applies",)


def test_reasons_to_skip() -> None:
    net = GraphBuilder(4)
    assert_skipped(
        net.model(net.op("Flatten", net.op("GlobalAveragePool", "image"), axis=1)), NAME, "no classifier reads it"
    )
    net = GraphBuilder(4)
    gate = net.op("Sigmoid", net.op("GlobalAveragePool", "image"))
    assert_skipped(net.model(net.op("Mul", "image", gate)), NAME, "no classifier reads it")
    net = GraphBuilder(4)
    dynamic = classifier(net, "image")
    dynamic.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    del dynamic.graph.value_info[:]
    assert_skipped(dynamic, NAME, "size of the feature map is unknown")
    net = GraphBuilder(4)
    assert_skipped(net.model(net.conv("image", 8)), NAME, "no GlobalAveragePool is left")
