"""Tests of MobileNet v1: timm's names, the paper's counts at each size, and the options of published weights."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deploytool.errors import BadInput
from deploytool.loading.factory import mount_zoo

mount_zoo()
layers = import_module("deploytool.models.layers")
mobilenet = import_module("deploytool.models.mobilenet")

LAYOUTS = Path(__file__).parent / "layouts"
MACS = {  # by width, at image sizes 192, 160 and 128; those at 224 are in specs
    1.0: (418_121_728, 290_675_200, 186_400_768),
    0.75: (239_273_472, 166_396_800, 106_770_432),
    0.5: (109_970_432, 76_524_800, 49_160_192),
    0.25: (30_212_608, 21_059_200, 13_570_048),
}


def on_meta(**options: object) -> Any:
    with torch.device("meta"):
        return mobilenet.mobilenet_v1(**options).eval()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, size: int) -> int:
    macs: list[int] = []
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda layer, _, out: macs.append(out.numel() * layer.weight[0].numel()))
    net(torch.empty(1, 3, size, size, device="meta"))
    return sum(macs)


def test_names_and_shapes_equal_timms() -> None:
    published = [tuple(line.split("\t")) for line in (LAYOUTS / "timm_mobilenetv1_100.txt").read_text().splitlines()]
    assert [(key, str(tuple(value.shape))) for key, value in on_meta().state_dict().items()] == published


@pytest.mark.parametrize("width", MACS)
def test_macs_at_the_papers_other_image_sizes(width: float) -> None:
    assert tuple(count_macs(on_meta(width=width), size) for size in (192, 160, 128)) == MACS[width]


def test_counts_of_other_published_widths_and_classes() -> None:
    wide = on_meta(width=1.25)
    assert (parameters(wide), count_macs(wide, 224)) == (6_270_840, 879_516_800)
    assert parameters(on_meta(classes=1001)) == 4_233_001


@pytest.mark.parametrize(("stem", "size", "side"), [("imagenet", 224, 7), ("imagenet", 64, 2), ("cifar", 32, 2)])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_last_block_preserves_the_image_size(stem: str, size: int, side: int, padding: str) -> None:
    net, x = on_meta(stem=stem, padding=padding), torch.empty(1, 3, size, size, device="meta")
    assert net.blocks(net.conv_stem(x)).shape == (1, 1024, side, side)


def test_relu6_changes_saturated_values() -> None:
    torch.manual_seed(0)
    relu, relu6 = mobilenet.mobilenet_v1(0.25, 10).eval(), mobilenet.mobilenet_v1(0.25, 10, activation="relu6").eval()
    for weight in (relu.conv_stem.weight, *(block.conv_pw.weight for stage in relu.blocks for block in stage)):
        weight.data *= 4
    relu6.load_state_dict(relu.state_dict())
    maxima: list[float] = []
    for layer in relu6.modules():
        if isinstance(layer, nn.ReLU6):
            layer.register_forward_hook(lambda _, __, out: maxima.append(out.max().item()))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (relu(x) - relu6(x)).abs().max() > 0.1 * relu(x).abs().max()
    assert len(maxima) == 27
    assert max(maxima) == 6


def test_padding_same_equals_tensorflows() -> None:
    torch.manual_seed(0)
    symmetric, same = (mobilenet.mobilenet_v1(0.25, 10, padding=padding).eval() for padding in ("symmetric", "same"))
    same.load_state_dict(symmetric.state_dict())
    assert sum(isinstance(layer, layers.SamePadConv2d) for layer in same.modules()) == 5
    even, odd = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        assert (symmetric(even) - same(even)).abs().max() > 1e-2 * symmetric(even).abs().max()
        assert torch.equal(symmetric(odd), same(odd))  # odd sizes in all stages: both paddings are equal


def test_batch_norm_epsilon_is_an_option() -> None:
    norms = [layer for layer in on_meta(bn_eps=1e-3).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 27
    assert {norm.eps for norm in norms} == {1e-3}


@pytest.mark.parametrize(
    ("option", "value"),
    [("width", 0.0), ("width", -1.0), ("stem", "mnist"), ("activation", "gelu"), ("padding", 1), ("bn_eps", -1e-3)],
)
def test_the_error_for_an_invalid_option_contains_its_name(option: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"{option} cannot be {value!r}"):
        mobilenet.mobilenet_v1(**{option: value})
