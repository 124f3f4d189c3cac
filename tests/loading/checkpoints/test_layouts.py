"""Each source's weights answer in our definition as they do in the source's own network."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own short name

from deploytool.spec import Option
from tests.loading.checkpoints import published, theirs
from tests.loading.checkpoints.sources import SOURCES, Source, answer, difference, load, pictures

each = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@each
def test_their_weights_answer_here_as_they_do_there(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes)
    loaded = load(weights, source.model, tmp_path)
    assert loaded.layout == source.layout
    assert loaded.model.options.items() >= source.options.items()
    assert loaded.model.preprocessing == source.preprocessing
    assert loaded.model.name == source.model
    expected = source.run(weights, pictures())
    assert expected.std() > 1e-3
    assert difference(answer(loaded, pictures()), expected) <= 1e-5


@each
def test_every_key_is_mapped_to_the_key_at_its_place_in_the_order(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes)
    state = load(weights, source.model, tmp_path).state
    assert len(state) == len(weights)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state.values(), weights.values(), strict=True))


@each
def test_the_classes_are_those_of_the_checkpoint(source: Source, tmp_path: Path) -> None:
    weights = published.tensors(source.shapes, classes=10)
    loaded = load(weights, source.model, tmp_path)
    assert loaded.model.outputs[0].shape == ("batch", 10)
    assert loaded.model.options["classes"] == 10
    assert loaded.model.parameters is None  # the published figure is for a thousand
    assert answer(loaded, pictures(32)).shape == (2, 10)


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
def test_an_option_that_is_not_the_sources_gives_another_answer(
    name: str, other: dict[str, Option], tmp_path: Path
) -> None:
    weights = published.tensors(SOURCES[name].shapes)
    for key in [key for key in weights if key.endswith("running_var")][:1]:
        weights[key] *= 0.01  # so that an epsilon of 1e-3 can be seen, and activations reach 6
    loaded = load(weights, SOURCES[name].model, tmp_path)
    expected = SOURCES[name].run(weights, pictures())
    assert difference(answer(loaded, pictures()), expected) <= 1e-5
    assert difference(answer(loaded, pictures(), **other), expected) > 1e-3


def test_megviis_weights_through_the_papers_shuffle_are_told_apart_by_their_own_network_too() -> None:
    weights = published.tensors(SOURCES["megvii g8"].shapes)
    right = theirs.megvii_shufflenet(weights, pictures(), 8)
    wrong = theirs.megvii_shufflenet(weights, pictures(), 8, shuffle=partial(theirs.shuffle_paper, groups=8))
    assert difference(wrong, right) > 0.1


def test_timms_mobilenet_saturates() -> None:
    weights = published.tensors(SOURCES["timm mobilenet"].shapes)
    weights["conv_stem.weight"] *= 20
    assert (
        difference(theirs.timm_mobilenet(weights, pictures(), F.relu), theirs.timm_mobilenet(weights, pictures())) > 0.1
    )
