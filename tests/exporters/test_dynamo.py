from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from deploytool.errors import StageFailed
from deploytool.exporters import dynamo
from deploytool.spec import Model, Tensor


@pytest.mark.parametrize(("opset", "is_reached"), [(18, True), (21, False)])
def test_an_opset_that_torch_does_not_reach_is_an_error(
    opset: int, is_reached: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", values[:1], values[1:])
    versions = [helper.make_opsetid("pkg", 1), helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=versions)  # torch only warns, and returns what it has
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(model_proto=made))
    model = Model("net", "net.py:make", inputs=(Tensor("x", ("batch", 3)),), outputs=(Tensor("y", ("batch", 3)),))
    example = (torch.ones(2, 3),)
    if is_reached:
        assert dynamo.export(nn.ReLU(), model, example, opset, tmp_path) is made
    else:
        with pytest.raises(StageFailed, match="it writes opset 18 for this model, not 21"):
            dynamo.export(nn.ReLU(), model, example, opset, tmp_path)
