"""Tests of all kinds of inputs (dtypes, scalars, images in uint8), from the declaration to the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import deploytool
from deploytool.backends import eager
from deploytool.cli import params
from deploytool.data import golden
from deploytool.errors import BadInput, DeployError, StageFailed
from deploytool.loading import factory
from tests.conftest import ROOT

TYPED = ROOT / "tests" / "user_models" / "input_dtypes.py"
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def run_graph(graph: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_a_model_with_inputs_of_all_dtypes_is_exported(tmp_path: Path) -> None:
    declared = params.tensors([f"of_{dtype}=4:{dtype}" for dtype in DTYPES])
    run = deploytool.export(f"{TYPED}:Summed", inputs=declared, quick=True, out=tmp_path / "run").check()
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert {name: str(array.dtype) for name, array in sample.inputs.items()} == {f"of_{name}": name for name in DTYPES}
    assert run.onnx is not None
    expected = np.stack(
        [array.astype(np.float64).mean(1) * number for number, array in enumerate(sample.inputs.values(), 1)], 1
    )
    np.testing.assert_allclose(run_graph(run.onnx, **sample.inputs)[0], expected, rtol=1e-5, atol=1e-6)


def test_an_engine_is_built_for_all_dtypes_of_tensorrt_and_others_are_refused(tmp_path: Path) -> None:
    supported = params.tensors([f"of_{dtype}=4:{dtype}" for dtype in DTYPES if dtype != "int16"])
    run = deploytool.export(f"{TYPED}:Summed", inputs=supported, quick=True, trt=True, out=tmp_path / "run").check()
    assert [path.stat().st_size > 10_000 for path in run.engines] == [True]
    with pytest.raises(BadInput, match="TensorRT does not support int16 inputs: x") as refused:
        deploytool.export(f"{TYPED}:Summed", inputs=params.tensors(["x=4:int16"]), trt=True, out=tmp_path / "no")
    assert "int32" in refused.value.remedy
    assert not (tmp_path / "no").exists()


def test_a_scalar_input_is_supported_from_the_declaration_to_the_bundle(tmp_path: Path) -> None:
    declared = params.tensors(["image=3x16x16", "t=:int64:1000"])
    run = deploytool.export(
        f"{TYPED}:Stepped", inputs=declared, quick=True, trt=True, pack=True, out=tmp_path / "run"
    ).check()
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert sample.inputs["t"].shape == (len(sample.labels),)
    assert sample.inputs["t"].max() > 100
    assert run.onnx is not None
    assert run.bundle is not None
    output = run_graph(run.onnx, image=sample.inputs["image"][:1], t=sample.inputs["t"][:1])[0]
    np.testing.assert_allclose(output, sample.reference["logits"][:1], atol=1e-3)
    (config,) = (path for path in run.bundle.rglob("config.pbtxt") if path.parent.name == "input_dtypes_Stepped")
    assert 'name: "t" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] }' in config.read_text()


@pytest.mark.parametrize(
    ("declared", "sizes"),
    [
        (["inputs_embeds=5x8"], {}),
        (["mask=L", "input_ids=L:int64:100"], {"L": (4, 8, 16)}),
        (["inputs_embeds=5x8", "mask=5"], {}),
        (["input_ids=5:int64:100"], {}),
    ],
)
def test_inputs_bind_to_parameters_of_forward_in_any_order(
    declared: list[str], sizes: dict[str, tuple[int, int, int]], tmp_path: Path
) -> None:
    run = deploytool.export(
        f"{TYPED}:Keyworded", inputs=params.tensors(declared), sizes=sizes, quick=True, to="onnx", out=tmp_path / "run"
    ).check()
    assert run.onnx is not None
    inputs = golden.read(run.folder / "golden" / "golden.npz").inputs
    table = factory.resolve(f"{TYPED}:Keyworded")().table.weight.detach().numpy()
    rows = inputs["inputs_embeds"] if "inputs_embeds" in inputs else table[inputs["input_ids"]]
    expected = (rows * inputs["mask"][..., None] if "mask" in inputs else rows).sum(1)
    np.testing.assert_allclose(run_graph(run.onnx, **inputs)[0], expected, atol=1e-5)


def test_an_unknown_input_name_is_refused_with_the_parameters_of_forward(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="token_ids") as refused:
        deploytool.export(f"{TYPED}:Keyworded", inputs=params.tensors(["token_ids=5:int64"]), out=tmp_path / "run")
    assert "input_ids, mask, inputs_embeds" in refused.value.remedy


def test_a_model_in_float16_passes_the_whole_pipeline(tmp_path: Path) -> None:
    run = deploytool.export(
        f"{TYPED}:Half", inputs=params.tensors(["x=16:float16"]), quick=True, faults=1, pack=True, out=tmp_path / "run"
    ).check()
    sample = golden.read(run.folder / "golden" / "golden.npz")
    assert sample.inputs["x"].dtype == np.float16
    assert run.report.faults is not None
    assert run.report.faults.families
    assert run.bundle is not None
    with deploytool.device.open(run.bundle) as model:
        outputs = model.run(x=sample.inputs["x"])
    np.testing.assert_allclose(next(iter(outputs.values())), next(iter(sample.reference.values())), atol=1e-2)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_inputs_pass_by_keyword_to_a_forward_that_declares_none(exporter: str, tmp_path: Path) -> None:
    declared = params.tensors(["right=8", "left=8"])
    run = deploytool.export(
        f"{TYPED}:OnlyKeywords", inputs=declared, exporter=exporter, quick=True, to="onnx", out=tmp_path / "run"
    ).check()
    assert run.onnx is not None
    left, right = np.ones((2, 8), np.float32), np.full((2, 8), 5, np.float32)
    np.testing.assert_array_equal(run_graph(run.onnx, left=left, right=right)[0], 3 * left - right)


@pytest.mark.parametrize("declared", [["8", "8"], ["left=8", "rihgt=8"]])
def test_a_name_that_forward_does_not_read_is_a_bad_input(declared: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        deploytool.export(f"{TYPED}:OnlyKeywords", inputs=params.tensors(declared), quick=True, out=tmp_path / "run")
    assert isinstance(refused.value.__cause__, KeyError)
    assert "--input NAME=SIZES" in refused.value.remedy


def test_uint8_and_scalar_inputs_with_a_fixed_batch_run_on_the_device(tmp_path: Path) -> None:
    run = deploytool.export(
        f"{TYPED}:Single",
        inputs=params.tensors(["image=3x16x16:uint8", "kind=:int64:100"]),
        batch=1,
        quick=True,
        trt=True,
        pack=True,
        out=tmp_path / "run",
    ).check()
    assert run.bundle is not None
    sample = golden.read(run.folder / "golden" / "golden.npz")
    with deploytool.device.open(run.bundle) as model:
        outputs = model.run(image=sample.inputs["image"][:1], kind=sample.inputs["kind"][:1])
    np.testing.assert_allclose(next(iter(outputs.values())), next(iter(sample.reference.values()))[:1], atol=1e-2)


def test_an_operator_on_uint8_that_tensorrt_lacks_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="TensorRT rejects Transpose node") as refused:
        deploytool.export(
            f"{TYPED}:Bytes",
            inputs=params.tensors(["16x16x3:uint8"]),
            arguments={"last": True},
            quick=True,
            trt=True,
            out=tmp_path / "run",
        )
    assert "\n" not in str(refused.value)
    assert "start the model with .float()" in refused.value.remedy


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_lists_dicts_flags_and_masks_reach_forward(exporter: str, tmp_path: Path) -> None:
    declared = params.tensors(["parts.0=2", "parts.1=4", "more.shift=3", "mask=L:int64:mask"])
    run = deploytool.export(
        f"{ROOT / 'tests' / 'user_models' / 'argument_kinds.py'}:Arguments",
        inputs=declared,
        sizes={"L": (2, 6, 9)},
        forward={"wide": True},
        exporter=exporter,
        quick=True,
        out=tmp_path,
    ).check()
    rng, mask = np.random.default_rng(0), np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    feeds = {name: rng.standard_normal((2, size)).astype(np.float32) for name, size in (("parts.0", 2), ("parts.1", 4))}
    feeds["more.shift"] = rng.standard_normal((2, 3)).astype(np.float32)
    module = eager.load_module(tmp_path / "load" / "weights.safetensors")
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        expected = module(
            [tensors["parts.0"], tensors["parts.1"]],
            {"shift": tensors["more.shift"]},
            True,
            mask=torch.from_numpy(mask),
        )
    assert run.onnx is not None
    np.testing.assert_allclose(run_graph(run.onnx, **feeds, mask=mask)[0], expected.numpy(), atol=1e-5)
    drawn = golden.read(tmp_path / "golden" / "golden.npz").inputs["mask"]
    np.testing.assert_array_equal(drawn, np.sort(drawn, axis=1)[:, ::-1])
