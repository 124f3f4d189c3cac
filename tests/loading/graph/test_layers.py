from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploytool.errors import BadInput
from deploytool.loading import catalog
from deploytool.loading.cost import costs
from deploytool.loading.graph import layers
from tests import given_graphs
from tests.conftest import Command


def test_the_layers_of_a_graph_are_counted_from_its_shapes(tmp_path: Path) -> None:
    onnx.save(given_graphs.conv(), tmp_path / "net.onnx")
    first, second = costs(catalog.find(str(tmp_path / "net.onnx")))
    assert (first.layer, first.kind, first.output, first.kernel) == ("a", "convolution", (8, 16, 16), 3)
    assert (first.parameters, first.macs) == (8 * 3 * 9 + 8, 8 * 16 * 16 * 3 * 9)
    assert (second.kind, second.output, second.parameters, second.macs) == ("fully connected", (10,), 90, 80)


def test_a_product_over_a_dynamic_length_counts_one_element(tmp_path: Path) -> None:
    onnx.save(given_graphs.tokens(), tmp_path / "net.onnx")
    (query,) = costs(catalog.find(str(tmp_path / "net.onnx")))
    assert (query.parameters, query.macs) == (64, 64)


def test_a_file_on_which_shape_inference_does_not_end_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_SECONDS", 0.01)
    onnx.save(given_graphs.mlp(), tmp_path / "net.onnx")
    with pytest.raises(BadInput, match=r"the layers of .*net.onnx cannot be listed: .* was stopped after 0.01 s"):
        costs(catalog.find(str(tmp_path / "net.onnx")))


def test_show_prints_the_inputs_of_a_file_and_the_export_that_it_needs(deploytool: Command, tmp_path: Path) -> None:
    onnx.save(given_graphs.tokens(), tmp_path / "net.onnx")
    shown = deploytool("show", str(tmp_path / "net.onnx"))
    assert shown.returncode == 0
    assert "opset 18, batch any; outputs: hidden" in shown.stdout
    assert f"deploytool export {tmp_path / 'net.onnx'} --size seq=SMALLEST:TYPICAL:LARGEST" in " ".join(
        (shown.stdout + shown.stderr).split()
    )
