"""Models and graphs in FP64 become files in FP32 and FP16, which are compared with the weights as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file

from deploytool import export
from deploytool.api import Run
from deploytool.data import golden
from deploytool.errors import StageFailed
from deploytool.spec import Tensor
from tests import given_graphs
from tests.user_model_export import OWN

CODE = OWN / "double_precision.py"


def types_of(path: Path | None) -> set[int]:
    """The types of the inputs, outputs and weights of a graph."""
    assert path is not None
    graph = onnx.load(path).graph
    values = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    return {*values, *(weight.data_type for weight in graph.initializer)} & {
        *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    }


def assert_files(run: Run, exact: npt.NDArray[np.float64]) -> None:
    """The files are FP32 and FP16, and the reference is `exact`, which FP32 weights would miss by 1e-8."""
    assert run.check().passed
    assert types_of(run.onnx) == {TensorProto.FLOAT}
    assert types_of(run.fp16) == {TensorProto.FLOAT, TensorProto.FLOAT16}
    (reference,) = golden.read(run.folder / "golden" / "golden.npz").reference.values()
    np.testing.assert_allclose(reference, exact, rtol=0, atol=1e-13)
    assert any("weights in FP64" in remark for remark in run.report.remarks)


def inputs_of(run: Run) -> npt.NDArray[np.float64]:
    (array,) = golden.read(run.folder / "golden" / "golden.npz").inputs.values()
    assert array.dtype == np.float32
    return array.astype(np.float64)


def test_a_graph_in_fp64_becomes_fp32_and_fp16(tmp_path: Path) -> None:
    graph = given_graphs.double(given_graphs.mlp())
    onnx.save(graph, tmp_path / "net.onnx")
    run = export(str(tmp_path / "net.onnx"), quick=True, out=tmp_path / "run")
    first, second = (numpy_helper.to_array(weight) for weight in graph.graph.initializer)
    assert_files(run, np.maximum(inputs_of(run) @ first, 0) @ second)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("factory", ["Layers", "by_default"])
def test_a_model_in_fp64_becomes_fp32_and_fp16(factory: str, dtype: str, tmp_path: Path) -> None:
    inputs = [Tensor("input", ("batch", 8), dtype)]
    run = export(f"{CODE}:{factory}", inputs=inputs, quick=True, out=tmp_path / "run")
    assert torch.get_default_dtype() == torch.float32
    state = load_file(run.folder / "load" / "weights.safetensors")
    (w1, b1), (w2, b2) = (tuple(state[name].numpy() for name in pair) for pair in _pairs(list(state)))
    assert_files(run, np.tanh(inputs_of(run) @ w1.T + b1) @ w2.T + b2)


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    """The weight and the bias of each layer."""
    layers = sorted({name.rpartition(".")[0] for name in names})
    return [(f"{layer}.weight", f"{layer}.bias") for layer in layers]


def test_a_model_that_fails_in_fp32_is_told_how_to_cast(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"weights of .* are FP64, and with FP32 it fails") as raised:
        export(f"{CODE}:Fixed", inputs=[(8,)], quick=True, out=tmp_path / "run")
    assert "x.to(self.weight.dtype)" in raised.value.remedy
