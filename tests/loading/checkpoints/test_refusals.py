"""Tests of the errors for checkpoints that do not fit: one line with the key, the shape or the family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deploytool.errors import BadInput
from deploytool.loading.catalog import find
from deploytool.loading.checkpoints import checkpoint
from deploytool.spec import Model
from tests.conftest import TINY
from tests.loading.checkpoints import published
from tests.tiny import tiny

MEGVII = published.shapes("megvii_shufflenet_g3_x1_0")
MIXNET = published.shapes("timm_mixnet_s")


def error_message(weights: dict[str, Tensor], model: Model, folder: Path) -> str:
    """Loads the weights and returns the problem and the remedy of the error."""
    torch.save(weights, folder / "weights.pth")
    with pytest.raises(BadInput) as caught:
        checkpoint.load(folder / "weights.pth", model)
    message = f"{caught.value}; {caught.value.remedy}"
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "key", ["features.init_block.conv.weight", "features.stage4.unit3.pw_conv.bn.running_var", "output.weight"]
)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights, key: weights.pop(key), "it lacks {key!r}"),
        (lambda weights, key: weights.update({key: weights[key][..., :-1]}), "{key!r} is "),
        (lambda weights, key: weights.update({f"{key}_too": weights[key]}), "additional tensor '{key}_too'"),
        (lambda weights, key: weights[key].view(-1)[:1].fill_(float("nan")), "{key!r} contains values that are not"),
        (
            lambda weights, key: weights.update({key: weights[key].char()}),
            "{key!r} is of torch.int8, not torch.float32",
        ),
    ],
    ids=["missing", "wrong shape", "extra", "not a number", "quantised"],
)
def test_the_error_contains_the_key(key: str, change: Callable[..., object], problem: str, tmp_path: Path) -> None:
    weights = published.tensors(published.shapes("pytorchcv_mobilenet_w1"))
    change(weights, key)
    assert problem.format(key=key) in error_message(weights, find("mobilenet_v1"), tmp_path)


def test_the_error_contains_any_missing_key(tmp_path: Path) -> None:
    weights = published.tensors(published.shapes("torchvision_squeezenet1_1"))
    for key in list(weights)[::3]:
        rest = {name: tensor for name, tensor in weights.items() if name != key}
        assert f"it lacks {key!r}" in error_message(rest, find("squeezenet1_1"), tmp_path)


def test_the_error_contains_both_shapes(tmp_path: Path) -> None:
    weights = published.tensors(MEGVII)
    weights["features.2.branch_main_1.0.weight"] = torch.zeros(60, 80, 3, 3)
    message = error_message(weights, find("shufflenet_g3"), tmp_path)
    assert "'features.2.branch_main_1.0.weight' is 60 × 80 × 3 × 3, not 60 × 80 × 1 × 1" in message


@pytest.mark.parametrize(
    ("source", "requested", "family"),
    [
        ("timm_mixnet_s", "shufflenet_g3", "timm mixnet"),
        ("timm_mobilenetv1_100", "mixnet_s", "timm mobilenet"),
        ("pytorchcv_mobilenet_w1", "squeezenet1_0", "pytorchcv mobilenet"),
        ("megvii_shufflenet_g3_x1_0", "mobilenet_v1", "megvii shufflenet"),
    ],
)
def test_the_error_contains_the_actual_family(source: str, requested: str, family: str, tmp_path: Path) -> None:
    message = error_message(published.tensors(published.shapes(source)), find(requested), tmp_path)
    assert f"this is a {family} checkpoint, and {requested} was requested" in message


@pytest.mark.parametrize(
    ("source", "requested", "actual"),
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
def test_the_remedy_is_the_model_that_fits(source: str, requested: str, actual: str, tmp_path: Path) -> None:
    message = error_message(published.tensors(published.shapes(source)), find(requested), tmp_path)
    assert f"does not fit {requested}: " in message
    assert f"contains {actual}:" in message


def test_conflicting_options_are_refused(tmp_path: Path) -> None:
    weights = published.tensors(published.shapes("pytorchcv_mixnet_s"))
    message = error_message(weights, find("tf_mixnet_s"), tmp_path)
    assert "pytorchcv's mixnet weights need padding='symmetric', and tf_mixnet_s has 'same'" in message
    cifar = replace(find("shufflenet_g3"), options={"groups": 3, "stem": "cifar"})
    assert "need stem='imagenet', and shufflenet_g3 has 'cifar'" in error_message(
        published.tensors(MEGVII), cifar, tmp_path
    )


def test_unknown_names_are_refused_with_the_first_key(tmp_path: Path) -> None:
    weights = {"layer1.weight": torch.zeros(3)}
    assert "unknown names of weights: 'layer1.weight'" in error_message(weights, find("mixnet_s"), tmp_path)
    assert "unknown names of weights: none" in error_message({}, find("mixnet_s"), tmp_path)


def test_an_option_that_the_definition_lacks_is_refused(tmp_path: Path) -> None:
    model = replace(find("mixnet_s"), options={"variant": "s", "flavour": "sweet"})
    assert "cannot be built with the options" in error_message(published.tensors(MIXNET), model, tmp_path)


def test_a_users_model_accepts_only_its_own_names(tmp_path: Path) -> None:
    state = tiny().state_dict()
    torch.save(state, tmp_path / "tiny.pth")
    loaded = checkpoint.load(tmp_path / "tiny.pth", TINY)
    assert (loaded.model, loaded.layout, list(loaded.state)) == (TINY, "ours", list(state))
    assert all(torch.equal(loaded.state[key], state[key]) for key in state)
    assert "does not fit tiny: it lacks 'stem.0.weight'" in error_message(published.tensors(MIXNET), TINY, tmp_path)
    eleven = {**state, "classifier.weight": torch.zeros(11, 16)}
    assert "'classifier.weight' is 11 × 16, not 10 × 16" in error_message(eleven, TINY, tmp_path)


def test_a_long_key_is_shortened_in_the_error(tmp_path: Path) -> None:
    save_file({**published.tensors(MIXNET), "x\n" * 10_000: torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadInput, match=r"additional tensor 'x\\nx\\n.*…") as caught:
        checkpoint.load(tmp_path / "odd.safetensors", find("mixnet_s"))
    assert len(str(caught.value)) < 250
