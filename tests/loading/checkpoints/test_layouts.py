"""Tests that the weights of each publisher give the same logits in the zoo's definition as in its own network."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own short name

from deploytool.spec import Option
from tests.loading.checkpoints import published, reference_networks
from tests.loading.checkpoints.sources import SOURCES, Source, images, load, relative_error, run

for_each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@for_each_source
def test_logits_equal_those_of_the_publishers_network(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes)
    loaded = load(weights, source.model, tmp_path)
    assert loaded.layout == source.layout
    assert loaded.model.options.items() >= source.options.items()
    assert loaded.model.preprocessing == source.preprocessing
    assert loaded.model.name == source.model
    expected = source.run(weights, images())
    assert expected.std() > 1e-3
    assert relative_error(run(loaded, images()), expected) <= 1e-5


@for_each_source
def test_keys_are_mapped_in_order(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes)
    state = load(weights, source.model, tmp_path).state
    assert len(state) == len(weights)
    pairs = zip(state.values(), weights.values(), strict=True)
    assert all(torch.equal(loaded, saved) for loaded, saved in pairs)


@for_each_source
def test_the_number_of_classes_is_that_of_the_checkpoint(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes, classes=10)
    loaded = load(weights, source.model, tmp_path)
    assert loaded.model.outputs[0].shape == ("batch", 10)
    assert loaded.model.options["classes"] == 10
    assert loaded.model.parameters is None  # the published count is for 1000 classes
    assert run(loaded, images(32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *[(name, {"shuffle_order": "paper"}) for name in ("megvii g3", "megvii g8")],
        *[(name, {"concat_order": "main_first"}) for name in ("megvii g3", "mmpretrain")],
        *[(name, {"shuffle_place": "before"}) for name in ("megvii g8", "mmpretrain")],
        ("pytorchcv shufflenet", {"concat_order": "shortcut_first"}),
        *[(name, {"activation": "relu"}) for name in ("timm mobilenet", "huggingface")],
        *[(name, {"padding": "symmetric"}) for name in ("huggingface", "timm tf_mixnet")],
        *[(name, {"bn_eps": 1e-5}) for name in ("huggingface", "timm tf_mixnet")],
        ("pytorchcv mobilenet", {"activation": "relu6"}),
        ("pytorchcv squeezeresnet", {"bypass": "none"}),
    ],
)
def test_a_different_option_changes_the_logits(name: str, other: dict[str, Option], tmp_path: Path) -> None:
    weights = published.tensors(SOURCES[name].shapes)
    for key in [key for key in weights if key.endswith("running_var")][:1]:
        weights[key] *= 0.01  # makes an epsilon of 1e-3 visible, and activations reach 6
    loaded = load(weights, SOURCES[name].model, tmp_path)
    expected = SOURCES[name].run(weights, images())
    assert relative_error(run(loaded, images()), expected) <= 1e-5
    assert relative_error(run(loaded, images(), **other), expected) > 1e-3


def test_the_papers_shuffle_changes_the_logits_of_megviis_network() -> None:
    weights = published.tensors(SOURCES["megvii g8"].shapes)
    right = reference_networks.megvii_shufflenet(weights, images(), 8)
    wrong = reference_networks.megvii_shufflenet(
        weights, images(), 8, shuffle=partial(reference_networks.shuffle_paper, groups=8)
    )
    assert relative_error(wrong, right) > 0.1


def test_relu6_saturates_in_timms_mobilenet() -> None:
    weights = published.tensors(SOURCES["timm mobilenet"].shapes)
    weights["conv_stem.weight"] *= 20
    relu6 = reference_networks.timm_mobilenet(weights, images())
    relu = reference_networks.timm_mobilenet(weights, images(), F.relu)
    assert relative_error(relu, relu6) > 0.1
