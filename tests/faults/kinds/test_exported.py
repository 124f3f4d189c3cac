"""The kinds of fault find their patterns in what onnxsim leaves of both exporters' graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxsim
import pytest

from deploytool.backends import onnxruntime
from deploytool.faults.kinds.graph import FaultGraph
from tests.conftest import TINY
from tests.faults.kinds.planting import faults_of
from tests.foreign import truth
from tests.foreign.table import EXPORTERS, NETS, parse_input

ATTENTION = ("heads_permuted", "attention_scale", "softmax_axis", "token_dropped", "layer_norm_eps")
FOUND = {
    "attention.bert": (*ATTENTION, "mask_inverted", "mask_dropped", "position_shifted", "gelu_swapped"),
    "attention.llama": (*ATTENTION, "mask_inverted", "mask_dropped", "rotary_swapped"),
    "transformers.yolo_anchors": ("boxes_reformatted", "box_constants"),
}
LONGEST = ("attention.bert", "dynamo")  # as long as the others together; `make test-all` runs it
TEXT = "input_ids=10:int64:100"
INPUTS = {
    "attention.bert": f"{TEXT} attention_mask=10:int64:2",
    "attention.llama": TEXT,
    "transformers.yolo_anchors": "image=3x32x32",
}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        pytest.param(name, exporter, marks=pytest.mark.sweep if (name, exporter) == LONGEST else ())
        for name in FOUND
        for exporter in EXPORTERS
    ],
)
def test_faults_of_an_exported_network_run_and_change_the_answers(name: str, exporter: str, tmp_path: Path) -> None:
    file, factory = name.split(".")
    specs = [parse_input(text) for text in INPUTS[name].split()]
    arrays = truth.make_inputs(specs, 0)
    net = truth.network(NETS / f"{file}.py", factory, 0, 0)
    assert not truth.export_onnx(net, arrays, exporter, tmp_path / "model.onnx")
    simplified, _ = onnxsim.simplify(onnx.load(tmp_path / "model.onnx"), check_n=0)
    graph = FaultGraph(simplified, False, {}, TINY.preprocessing)
    inputs = {f"in_{number}": array for number, array in enumerate(arrays["fresh"])}
    with onnxruntime.start(graph.model.SerializeToString()) as session:
        exact = session(**inputs)
    for family in FOUND[name]:
        found = [fault for fault in faults_of(graph, family) if not fault.same]
        assert found, family
        for fault in found:
            copy = graph.copy()
            fault.plant(copy)
            with onnxruntime.start(copy.model.SerializeToString()) as session:
                got = session(**inputs)
            assert all(got[output].shape == array.shape for output, array in exact.items()), fault
            assert any(not np.array_equal(got[output], array) for output, array in exact.items()), fault
