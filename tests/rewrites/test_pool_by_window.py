from __future__ import annotations

import onnx

from deploytool.rewrites import forms
from deploytool.rewrites.graph.editable import attributes
from tests.rewrites.drawing import Drawing, kinds, proved, refused

NAME = "pool_by_window"


def classified(net: Drawing, source: str) -> onnx.ModelProto:
    """Mean and classifier behind it."""
    flat = net.op("Flatten", net.op("GlobalAveragePool", source), axis=1)
    return net.model(net.op("Gemm", flat, net.weight(net.rng.normal(size=(net.channels[source], 5)))))


def test_the_mean_before_a_classifier() -> None:
    net = Drawing(4)
    after = proved(classified(net, net.op("Relu", net.conv("picture", 8, 3, stride=2))), NAME, 1)
    assert kinds(after) == ["Conv", "Relu", "AveragePool", "Flatten", "Gemm"]
    assert list(attributes(after.graph.node[2])["kernel_shape"]) == [4, 4]


def test_alone_it_is_no_form() -> None:
    net = Drawing(4)
    (only,) = forms.candidates(classified(net, net.op("Relu", net.conv("picture", 8, 3))))
    assert only.name == "original"
    assert only.outcomes[NAME].passed == ("the rest of its recipe makes no form of its own",)


def test_why_not() -> None:
    net = Drawing(4)
    refused(
        net.model(net.op("Flatten", net.op("GlobalAveragePool", "picture"), axis=1)), NAME, "no classifier reads it"
    )
    net = Drawing(4)
    gate = net.op("Sigmoid", net.op("GlobalAveragePool", "picture"))
    refused(net.model(net.op("Mul", "picture", gate)), NAME, "no classifier reads it")
    net = Drawing(4)
    free = classified(net, "picture")
    free.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    del free.graph.value_info[:]
    refused(free, NAME, "size of the picture is not known")
    net = Drawing(4)
    refused(net.model(net.conv("picture", 8)), NAME, "no GlobalAveragePool is left")
