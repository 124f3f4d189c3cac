"""Tests of the other widths and depths of each publisher against its network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deploytool.loading import factory
from deploytool.loading.catalog import find
from deploytool.loading.checkpoints import key_maps
from deploytool.loading.checkpoints.publishers import pytorchcv
from deploytool.spec import Option
from tests.loading.checkpoints import published, reference_networks
from tests.loading.checkpoints.published import Shapes
from tests.loading.checkpoints.sources import images, load, relative_error, run


def our_shapes(model: str, **options: Option) -> Shapes:
    definition = find(model)
    with torch.device("meta"):
        state = factory.resolve(definition.factory)(**{**definition.options, **options}).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("groups", [3, 8])
@pytest.mark.parametrize("width", ["x0_5", "x1_5", "x2_0"])
def test_megviis_other_widths(groups: int, width: str, tmp_path: Path) -> None:
    model = f"shufflenet_g{groups}_{width}"
    shapes = published.with_shapes(
        published.shapes("megvii_shufflenet_g3_x1_0"), our_shapes(model, classifier_bias=False)
    )
    weights = published.tensors(shapes)
    expected = reference_networks.megvii_shufflenet(weights, images(32), groups)
    assert relative_error(run(load(weights, model, tmp_path), images(32)), expected) <= 1e-5


@pytest.mark.parametrize("model", ["shufflenet_g1_x0_25", "shufflenet_g1_x0_75", "shufflenet_g2", "shufflenet_g3_x0_5"])
def test_pytorchcvs_other_shufflenets(model: str, tmp_path: Path) -> None:
    shapes = published.with_shapes(published.shapes("pytorchcv_shufflenet_g3_w1"), our_shapes(model))
    weights = published.tensors(shapes)
    expected = reference_networks.pytorchcv_shufflenet(weights, images(32), int(str(find(model).options["groups"])))
    assert relative_error(run(load(weights, model, tmp_path), images(32)), expected) <= 1e-5


def test_pytorchcvs_other_mobilenet(tmp_path: Path) -> None:
    shapes = published.with_shapes(published.shapes("pytorchcv_mobilenet_w1"), our_shapes("mobilenet_v1_050"))
    weights = published.tensors(shapes)
    loaded = load(weights, "mobilenet_v1_050", tmp_path)
    assert relative_error(run(loaded, images(32)), reference_networks.pytorchcv_mobilenet(weights, images(32))) <= 1e-5


@pytest.mark.parametrize("model", ["mixnet_m", "mixnet_l"])
def test_pytorchcvs_larger_mixnets_have_eight_units_in_the_last_stage(model: str, tmp_path: Path) -> None:
    ours = our_shapes(model)
    names = pytorchcv.mixnet(find(model).options)
    shapes = {key_maps.source_key(key, names): shape for key, shape in ours.items()}
    units = reference_networks.unit_paths({key: torch.empty(0) for key in shapes}, ".exp_conv.")
    lengths = [sum(unit.startswith(f"features.stage{stage}.") for unit in units) for stage in (1, 2, 3, 4)]
    assert lengths == [2, 4, 4, 8]
    loaded = load(published.tensors(shapes), model, tmp_path)
    assert {key: tuple(value.shape) for key, value in loaded.state.items()} == ours


def test_pytorchcvs_squeezenet_1_1(tmp_path: Path) -> None:
    lengths = {"stage1": 2, "stage2": 2, "stage3": 4}
    units = [f"features.{stage}.unit{unit + 1}" for stage, length in lengths.items() for unit in range(length)]
    parts = [f"{unit}.{part}.conv" for unit in units for part in ("squeeze", "expand1x1", "expand3x3")]
    paths = ["features.init_block.conv", *parts, "output.final_conv"]
    keys: Shapes = {f"{path}.{name}": () for path in paths for name in ("weight", "bias")}
    weights = published.tensors(published.with_shapes(keys, published.shapes("torchvision_squeezenet1_1")))
    expected = reference_networks.squeezenet(weights, images(), (0, 2, 4))
    assert relative_error(run(load(weights, "squeezenet1_1", tmp_path), images()), expected) <= 1e-5
