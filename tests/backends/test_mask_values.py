"""Masks are no overflow, whatever they are made of; what overflows beside them is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from deploytool.backends import fp16_emulation
from deploytool.precision import fp16
from deploytool.results import verdict
from tests.user_model_export import Walk
from tests.user_models import masked

MASKS = ("Infinity", "Billion", "Smallest", "Added", "AddedOnce", "AddedTwice", "Made", "Boolean", "Causal")
POOLS = ("Pooled", "Padded")
OVERFLOWS = ("Overflowing", "OverflowingAdded", "OverflowingClamped")
Arrays = dict[str, np.ndarray]


def inputs(name: str) -> Arrays:
    drawn = np.random.default_rng(0)
    tokens = {"tokens": drawn.normal(size=(2, 8, masked.WIDTH)).astype(np.float32)}
    return tokens | ({"present": drawn.integers(0, 2, (2, 8))} if name == "Lengths" else {})


def exported(name: str, folder: Path) -> tuple[onnx.ModelProto, Arrays, np.ndarray]:
    """The graph, inputs, and the answer of the model in FP64."""
    module = getattr(masked, name)().eval()
    given = {key: torch.from_numpy(value) for key, value in inputs(name).items()}
    made = folder / "single.onnx"
    torch.onnx.export(module, tuple(given.values()), made, input_names=list(given), dynamo=False, opset_version=18)
    with torch.no_grad():
        truth = module.double()(*(value.double() if value.is_floating_point() else value for value in given.values()))
    return onnx.load(made), inputs(name), truth.numpy()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [*MASKS, *POOLS, "Lengths"])
def test_a_mask_is_no_overflow_and_the_answers_are_right(name: str, tmp_path: Path) -> None:
    single, given, truth = exported(name, tmp_path)
    halved = fp16.convert(single, keep_io=True)
    onnx.save(halved.half, tmp_path / "half.onnx")
    sizes = fp16_emulation.node_ranges(tmp_path / "half.onnx", given)
    assert max(sizes.values()) < 100, "no mask hides how large the scores are"
    got, largest = fp16_emulation.run_with_range(halved.half, given)
    assert largest < 65504
    assert halved.beyond(given) == frozenset()
    (mine,) = got.values()
    assert np.abs(mine - truth).max() < 3e-3 * np.abs(truth).max()
    session = ort.InferenceSession(halved.half.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, given)[0] - truth).max() < 3e-3 * np.abs(truth).max()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", OVERFLOWS)
def test_what_overflows_beside_a_mask_is_seen(name: str, tmp_path: Path) -> None:
    single, given, _ = exported(name, tmp_path)
    halved = fp16.convert(single, keep_io=True)
    onnx.save(halved.half, tmp_path / "half.onnx")
    sizes = fp16_emulation.node_ranges(tmp_path / "half.onnx", given)
    assert max(sizes.values()) > 65504
    assert all(np.isfinite(size) for size in sizes.values())
    assert fp16_emulation.run_with_range(halved.half, given)[1] > 65504
    assert halved.beyond(given)


@pytest.mark.parametrize(
    ("name", "exporter"),
    [("Infinity", "torchscript"), ("Causal", "dynamo")],
)
def test_a_model_with_a_mask_goes_down_the_whole_road(name: str, exporter: str, walk: Walk) -> None:
    written = walk(f"masked:{name}", ["tokens=8x16"], exporter, engine=False)
    assert verdict.failed_lines(written) == ()
    assert written.reach is not None
    assert written.reach.largest < 100
