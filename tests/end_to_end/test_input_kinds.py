"""Inputs as models have them: every type, one number a case, bytes; from the declaration to the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import deploytool
from deploytool.cli import params
from deploytool.data import golden
from deploytool.errors import BadInput, DeployError, StageFailed
from deploytool.loading import factory
from tests.conftest import ROOT

TYPED = ROOT / "tests" / "user_models" / "typed.py"
ALL = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def answered(graph: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_every_type_goes_down_the_road_in_one_model(tmp_path: Path) -> None:
    declared = params.tensors([f"of_{dtype}=4:{dtype}" for dtype in ALL])
    run = deploytool.export(f"{TYPED}:Summed", inputs=declared, quick=True, out=tmp_path / "run").check()
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert {name: str(array.dtype) for name, array in sample.inputs.items()} == {f"of_{name}": name for name in ALL}
    assert run.onnx is not None
    wanted = np.stack(
        [array.astype(np.float64).mean(1) * place for place, array in enumerate(sample.inputs.values(), 1)], 1
    )
    np.testing.assert_allclose(answered(run.onnx, **sample.inputs)[0], wanted, rtol=1e-5, atol=1e-6)


def test_an_engine_is_built_for_every_type_that_tensorrt_takes_and_refused_at_once_for_the_others(
    tmp_path: Path,
) -> None:
    taken = params.tensors([f"of_{dtype}=4:{dtype}" for dtype in ALL if dtype != "int16"])
    run = deploytool.export(f"{TYPED}:Summed", inputs=taken, quick=True, trt=True, out=tmp_path / "run").check()
    assert [path.stat().st_size > 10_000 for path in run.engines] == [True]
    with pytest.raises(BadInput, match="TensorRT takes no input of int16: x") as refused:
        deploytool.export(f"{TYPED}:Summed", inputs=params.tensors(["x=4:int16"]), trt=True, out=tmp_path / "no")
    assert "int32" in refused.value.remedy
    assert not (tmp_path / "no").exists()


def test_one_number_a_case_goes_from_its_declaration_to_the_engine_and_the_bundle(tmp_path: Path) -> None:
    declared = params.tensors(["image=3x16x16", "t=:int64:1000"])
    run = deploytool.export(
        f"{TYPED}:Stepped", inputs=declared, quick=True, trt=True, pack=True, out=tmp_path / "run"
    ).check()
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert sample.inputs["t"].shape == (len(sample.labels),)
    assert sample.inputs["t"].max() > 100
    assert run.onnx is not None
    assert run.bundle is not None
    alone = answered(run.onnx, image=sample.inputs["image"][:1], t=sample.inputs["t"][:1])[0]
    np.testing.assert_allclose(alone, sample.reference["logits"][:1], atol=1e-3)
    (config,) = (path for path in run.bundle.rglob("config.pbtxt") if path.parent.name == "typed_Stepped")
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
def test_names_are_those_of_the_parameters_of_forward_in_any_order(
    declared: list[str], sizes: dict[str, tuple[int, int, int]], tmp_path: Path
) -> None:
    run = deploytool.export(
        f"{TYPED}:Keyworded", inputs=params.tensors(declared), sizes=sizes, quick=True, to="onnx", out=tmp_path / "run"
    ).check()
    assert run.onnx is not None
    given = golden.read(run.folder / "golden" / "golden.npz").inputs
    table = factory.resolve(f"{TYPED}:Keyworded")().table.weight.detach().numpy()
    rows = given["inputs_embeds"] if "inputs_embeds" in given else table[given["input_ids"]]
    wanted = (rows * given["mask"][..., None] if "mask" in given else rows).sum(1)
    np.testing.assert_allclose(answered(run.onnx, **given)[0], wanted, atol=1e-5)


def test_a_name_that_forward_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="token_ids") as refused:
        deploytool.export(f"{TYPED}:Keyworded", inputs=params.tensors(["token_ids=5:int64"]), out=tmp_path / "run")
    assert "input_ids, mask, inputs_embeds" in refused.value.remedy


def test_bytes_and_one_number_a_case_go_with_a_fixed_batch_to_the_device(tmp_path: Path) -> None:
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
        made = model.run(image=sample.inputs["image"][:1], kind=sample.inputs["kind"][:1])
    np.testing.assert_allclose(next(iter(made.values())), next(iter(sample.reference.values()))[:1], atol=1e-2)


def test_bytes_that_are_moved_before_they_are_numbers_are_refused_by_the_engine_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="TensorRT does not take Transpose node") as refused:
        deploytool.export(
            f"{TYPED}:Bytes",
            inputs=params.tensors(["16x16x3:uint8"]),
            arguments={"last": True},
            quick=True,
            trt=True,
            out=tmp_path / "run",
        )
    assert "\n" not in str(refused.value)
    assert "let the model begin with .float()" in refused.value.remedy
