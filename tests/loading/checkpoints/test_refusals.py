"""A checkpoint that does not fit is refused in one line that names the key, the shape or the family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deploytool.errors import BadInput
from deploytool.loading import checkpoints
from deploytool.loading.catalog import find
from deploytool.spec import Model
from tests.conftest import TINY
from tests.loading.checkpoints import published
from tests.tiny import tiny

MEGVII = published.shapes("megvii_shufflenet_g3_x1_0")
MIXNET = published.shapes("timm_mixnet_s")


def refusal(weights: dict[str, Tensor], model: Model, folder: Path) -> str:
    """The problem and the remedy."""
    torch.save(weights, folder / "weights.pth")
    with pytest.raises(BadInput) as caught:
        checkpoints.load(folder / "weights.pth", model)
    said = f"{caught.value}; {caught.value.remedy}"
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "key", ["features.init_block.conv.weight", "features.stage4.unit3.pw_conv.bn.running_var", "output.weight"]
)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights, key: weights.pop(key), "it lacks {key!r}"),
        (lambda weights, key: weights.update({key: weights[key][..., :-1]}), "{key!r} is "),
        (lambda weights, key: weights.update({f"{key}_too": weights[key]}), "it has '{key}_too' besides"),
        (
            lambda weights, key: weights[key].view(-1)[:1].fill_(float("nan")),
            "{key!r} holds numbers that are not finite",
        ),
        (
            lambda weights, key: weights.update({key: weights[key].char()}),
            "{key!r} is of torch.int8, not torch.float32",
        ),
    ],
    ids=["missing", "wrong shape", "extra", "not a number", "quantised"],
)
def test_the_key_is_named(key: str, change: Callable[..., object], problem: str, tmp_path: Path) -> None:
    weights = published.tensors(published.shapes("pytorchcv_mobilenet_w1"))
    change(weights, key)
    assert problem.format(key=key) in refusal(weights, find("mobilenet_v1"), tmp_path)


def test_any_missing_key_is_named(tmp_path: Path) -> None:
    weights = published.tensors(published.shapes("torchvision_squeezenet1_1"))
    for key in list(weights)[::3]:
        rest = {other: tensor for other, tensor in weights.items() if other != key}
        assert f"it lacks {key!r}" in refusal(rest, find("squeezenet1_1"), tmp_path)


def test_both_shapes_are_named(tmp_path: Path) -> None:
    weights = published.tensors(MEGVII)
    weights["features.2.branch_main_1.0.weight"] = torch.zeros(60, 80, 3, 3)
    said = refusal(weights, find("shufflenet_g3"), tmp_path)
    assert "'features.2.branch_main_1.0.weight' is 60 × 80 × 3 × 3, not 60 × 80 × 1 × 1" in said


@pytest.mark.parametrize(
    ("source", "asked", "problem"),
    [
        ("timm_mixnet_s", "shufflenet_g3", "this is a timm mixnet checkpoint, and shufflenet_g3 was asked for"),
        ("timm_mobilenetv1_100", "mixnet_s", "this is a timm mobilenet checkpoint, and mixnet_s was asked for"),
        ("pytorchcv_mobilenet_w1", "squeezenet1_0", "this is a pytorchcv mobilenet checkpoint, and squeezenet1_0"),
        ("megvii_shufflenet_g3_x1_0", "mobilenet_v1", "this is a megvii shufflenet checkpoint, and mobilenet_v1"),
    ],
)
def test_another_family_is_named(source: str, asked: str, problem: str, tmp_path: Path) -> None:
    assert problem in refusal(published.tensors(published.shapes(source)), find(asked), tmp_path)


@pytest.mark.parametrize(
    ("source", "asked", "held"),
    [
        ("megvii_shufflenet_g8_x1_0", "shufflenet_g3", "shufflenet_g8"),
        ("pytorchcv_shufflenet_g3_w1", "shufflenet_g3_x0_5", "shufflenet_g3"),
        ("timm_mixnet_s", "mixnet_l", "mixnet_s"),
        ("timm_mixnet_s", "tf_mixnet_m", "tf_mixnet_s"),
        ("torchvision_squeezenet1_1", "squeezenet1_0", "squeezenet1_1"),
        ("pytorchcv_squeezeresnet_v1_0", "squeezenet1_1_simple_bypass", "squeezenet1_0_simple_bypass"),
        ("pytorchcv_mobilenet_w1", "mobilenet_v1_050", "mobilenet_v1"),
    ],
)
def test_the_right_model_is_suggested(source: str, asked: str, held: str, tmp_path: Path) -> None:
    said = refusal(published.tensors(published.shapes(source)), find(asked), tmp_path)
    assert f"does not fit {asked}: " in said
    assert said.endswith(f"the file holds {held}: export that instead")


def test_options_that_weights_were_not_made_for_are_refused(tmp_path: Path) -> None:
    weights = published.tensors(published.shapes("pytorchcv_mixnet_s"))
    said = refusal(weights, find("tf_mixnet_s"), tmp_path)
    assert "pytorchcv's mixnet weights need padding='symmetric', and tf_mixnet_s has 'same'" in said
    cifar = replace(find("shufflenet_g3"), options={"groups": 3, "stem": "cifar"})
    assert "need stem='imagenet', and shufflenet_g3 has 'cifar'" in refusal(published.tensors(MEGVII), cifar, tmp_path)


def test_weights_that_nobody_names_so_are_refused_by_their_first_key(tmp_path: Path) -> None:
    assert "nobody we know names weights 'layer1.weight'" in refusal(
        {"layer1.weight": torch.zeros(3)}, find("mixnet_s"), tmp_path
    )
    assert "by no name at all" in refusal({}, find("mixnet_s"), tmp_path)


def test_an_options_that_the_definition_lacks_is_refused(tmp_path: Path) -> None:
    model = replace(find("mixnet_s"), options={"variant": "s", "flavour": "sweet"})
    assert "cannot be made with the options" in refusal(published.tensors(MIXNET), model, tmp_path)


def test_somebody_elses_model_takes_its_own_names_and_no_others(tmp_path: Path) -> None:
    state = tiny().state_dict()
    torch.save(state, tmp_path / "tiny.pth")
    loaded = checkpoints.load(tmp_path / "tiny.pth", TINY)
    assert (loaded.model, loaded.layout, list(loaded.state)) == (TINY, "ours", list(state))
    assert all(torch.equal(loaded.state[key], state[key]) for key in state)
    assert "does not fit tiny: it lacks 'stem.0.weight'" in refusal(published.tensors(MIXNET), TINY, tmp_path)
    ten = {**state, "classifier.weight": torch.zeros(11, 16)}
    assert "'classifier.weight' is 11 × 16, not 10 × 16" in refusal(ten, TINY, tmp_path)


def test_a_key_of_any_length_stays_on_one_short_line(tmp_path: Path) -> None:
    save_file({**published.tensors(MIXNET), "x\n" * 10_000: torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadInput, match=r"it has 'x\\nx\\n.*… besides") as caught:
        checkpoints.load(tmp_path / "odd.safetensors", find("mixnet_s"))
    assert len(str(caught.value)) < 250
