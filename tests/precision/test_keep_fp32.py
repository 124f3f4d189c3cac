"""Models whose weights make FP16 overflow: the export fails, and passes with --keep-fp32 auto."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from deploytool import serde
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import receipt, report, verdict
from deploytool.results.report import Report
from deploytool.spec import Job, Model, Options, Source, Stage, Tensor

pytestmark = pytest.mark.integration

Weights: TypeAlias = dict[str, npt.NDArray[Any]]

RECIPE = [verb for verb in PIPELINE if verb not in ("torchscript", "build")]
OPTIONS = Options(images=4, seconds=0.1, rewrite="original")  # rewrites merge layers, and so their names
UP, DOWN = 18, -18  # powers of two, so that nothing but the range changes

# model, side of its images, the power of two that each weight is multiplied by, and the layers that must be kept
QUICK = {
    "shufflenet: between two layers": (
        "shufflenet_g3_x0_25",
        64,
        {
            "stage3.1.compress_bn.weight": UP,
            "stage3.1.compress_bn.bias": UP,
            "stage3.1.depthwise.weight": DOWN,
        },
        {"stage3.1.compress", "stage3.1.depthwise"},
    ),
    "mobilenet: at the classifier": (
        "mobilenet_v1_cifar",
        32,
        {"classifier.weight": UP, "classifier.bias": UP},
        {"classifier"},
    ),
}
HEAVY = {
    "shufflenet: in a residual addition": (
        "shufflenet_g3_x0_25",
        64,
        {
            "stage4.0.expand_bn.weight": 16,
            "stage4.0.expand_bn.bias": 16,
            "stage4.1.compress.weight": -16,
            "stage4.2.compress.weight": -16,
            "stage4.3.compress.weight": -16,
            "classifier.weight": -16,
        },
        {"stage4.0.expand", "stage4.1.compress", "stage4.2.compress", "stage4.3.compress"},
    ),
    "mobilenet: between two layers": (
        "mobilenet_v1_025",
        64,
        {"blocks.3.1.bn1.weight": UP, "blocks.3.1.bn1.bias": UP, "blocks.3.1.conv_pw.weight": DOWN},
        {"blocks.3.1.conv_dw", "blocks.3.1.conv_pw"},
    ),
    "mixnet: in the gate": (
        "mixnet_s",
        64,
        {
            "blocks.2.1.se.conv_reduce.weight": UP,
            "blocks.2.1.se.conv_reduce.bias": UP,
            "blocks.2.1.se.conv_expand.weight": DOWN,
        },
        {"blocks.2.1.se.conv_reduce", "blocks.2.1.se.conv_expand"},
    ),
    "mixnet: at the classifier": (
        "mixnet_s",
        64,
        {"classifier.weight": UP, "classifier.bias": UP},
        {"classifier"},
    ),
    "squeezenet: between two layers": (
        "squeezenet1_1",
        64,
        {
            "features.7.squeeze.weight": UP,
            "features.7.squeeze.bias": UP,
            "features.7.expand1x1.weight": DOWN,
            "features.7.expand3x3.weight": DOWN,
        },
        {"features.7.squeeze", "features.7.expand1x1", "features.7.expand3x3"},
    ),
    "squeezenet: at the last pool": (
        "squeezenet1_1",
        64,
        {"classifier.1.weight": UP, "classifier.1.bias": UP},
        {"classifier.1"},
    ),
}


def small(name: str, side: int) -> Model:
    found = catalog.find(name)
    preprocessing = dataclasses.replace(found.preprocessing, resize=side, crop=side)
    inputs = (Tensor("input", ("batch", 3, side, side)),)
    return dataclasses.replace(found, inputs=inputs, preprocessing=preprocessing, macs=None)


def edited(model: Model, edit: Callable[[Weights], None], folder: Path) -> Source:
    """A checkpoint of the seeded weights, edited."""
    (made,) = runner.run(Job(model, OPTIONS), [Stage.LOAD], folder / "sound")
    weights, path = load_file(made.path), folder / "weights.safetensors"
    with safe_open(made.path, framework="numpy") as file:
        metadata = file.metadata()
    edit(weights)
    save_file(weights, path, metadata=metadata)
    return Source(str(path), serde.file_digest(path))


def walk(model: Model, options: Options, home: Path) -> tuple[Report, receipt.Receipt]:
    written = report.read(list(runner.run(Job(model, options), RECIPE, home))[-1].path)
    sealed = receipt.read(home / "fp16")
    assert sealed is not None
    return written, sealed


def scale(weights: Weights, powers: Mapping[str, int]) -> None:
    for key, power in powers.items():
        weights[key] = np.ldexp(weights[key], power)


def lift(weights: Weights, unit: str, level: float) -> None:
    """Adds a constant before a convolution and subtracts its effect after it: only rounding errors change."""
    weights[f"{unit}.depthwise_bn.bias"] += np.float32(level)
    filters = weights[f"{unit}.expand.weight"]
    weights[f"{unit}.expand_bn.running_mean"] += np.float32(level) * filters.reshape(len(filters), -1).sum(axis=1)


def check_keep_fp32(name: str, side: int, powers: Mapping[str, int], layers: set[str], folder: Path) -> None:
    model = small(name, side)
    options = dataclasses.replace(OPTIONS, weights=edited(model, partial(scale, powers=powers), folder))
    failed, _ = walk(model, options, folder / "run")
    assert any(line.startswith("FP16 overflows: /") for line in verdict.failed_lines(failed))
    assert {comparison.stage for comparison in failed.comparisons for check in comparison.checks if check.broken} <= {
        "fp16"
    }
    assert verdict.keep_fp32_may_help(failed)

    mended, sealed = walk(model, dataclasses.replace(options, keep_fp32=("auto",)), folder / "run")
    assert verdict.failed_lines(mended) == ()
    kept = serde.decode(dict[str, str], sealed.notes["kept"])
    named = serde.decode(tuple[str, ...], sealed.notes["keep_fp32"])
    assert layers <= set(kept.values())
    assert len(kept) <= 24
    assert any(f"fp16: kept in FP32: {', '.join(named)} ({len(kept)} of " in line for line in mended.remarks)
    assert serde.decode(int, sealed.notes["evaluations"]) <= 96

    _, again = walk(model, dataclasses.replace(options, keep_fp32=named), folder / "run")
    assert again.files["model.onnx"] == sealed.files["model.onnx"]


@pytest.mark.parametrize("case", QUICK)
def test_an_overflow_is_reported_and_kept_in_fp32(case: str, tmp_path: Path) -> None:
    check_keep_fp32(*QUICK[case], tmp_path)


def test_the_two_layers_that_lose_precision_are_found(tmp_path: Path) -> None:
    model = small("shufflenet_g3_x0_25", 64)
    weights = edited(model, partial(lift, unit="stage3.1", level=256.0), tmp_path)
    options = dataclasses.replace(OPTIONS, weights=weights)
    failed, _ = walk(model, options, tmp_path / "run")
    assert verdict.keep_fp32_may_help(failed)
    assert failed.fp16_range is not None
    assert not failed.fp16_range.overflows

    mended, sealed = walk(model, dataclasses.replace(options, keep_fp32=("auto",)), tmp_path / "run")
    assert verdict.failed_lines(mended) == ()
    assert sealed.notes["keep_fp32"] == ["stage3.1.depthwise", "stage3.1.expand"]
    assert serde.decode(int, sealed.notes["evaluations"]) <= 40


@pytest.mark.sweep
@pytest.mark.parametrize("case", HEAVY)
def test_an_overflow_in_any_layer_is_reported_and_kept_in_fp32(case: str, tmp_path: Path) -> None:
    check_keep_fp32(*HEAVY[case], tmp_path)
