"""Tests of MixNet: timm's names, TensorFlow's padding, published counts."""

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
mixnet = import_module("deploytool.models.mixnet")

LAYOUTS = Path(__file__).parent / "layouts"


def on_meta(variant: str, **options: object) -> Any:
    with torch.device("meta"):
        return mixnet.mixnet(variant, **options).eval()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_names_and_shapes_equal_timms() -> None:
    published = [tuple(line.split("\t")) for line in (LAYOUTS / "timm_mixnet_s.txt").read_text().splitlines()]
    assert [(key, str(tuple(value.shape))) for key, value in on_meta("s").state_dict().items()] == published


@pytest.mark.parametrize(("variant", "keys"), [("s", 396), ("m", 479), ("l", 479), ("xl", 584)])
def test_the_number_of_tensors_equals_timms(variant: str, keys: int) -> None:
    assert len(on_meta(variant).state_dict()) == keys


def test_building_one_variant_does_not_change_another() -> None:
    built = [parameters(on_meta(variant)) for variant in ("l", "l", "m", "xl", "s", "m")]
    assert built == [7_329_252, 7_329_252, 5_014_382, 11_896_768, 4_134_606, 5_014_382]


def test_the_first_part_includes_the_remainder() -> None:
    assert mixnet.shares(10, 3) == [4, 3, 3]
    assert mixnet.shares(8, 1) == [8]


def test_each_kernel_convolves_its_part_of_the_channels() -> None:
    mixed = mixnet.MixedConv2d(7, 7, [3, 5, 7], 1, True, "symmetric")
    x = torch.randn(1, 7, 9, 9)
    modified = x.clone()
    modified[:, 0] += 1  # in the first part: channels 0 to 2
    changed = (mixed(x) != mixed(modified)).flatten(2).any(dim=2)[0].tolist()
    assert changed == [True] + [False] * 6
    assert [conv.kernel_size for conv in mixed] == [(3, 3), (5, 5), (7, 7)]


def test_blocks_with_squeeze_and_excite_use_silu_and_reduce_the_block_input() -> None:
    blocks = on_meta("s").blocks
    assert isinstance(blocks[1][0].act1, nn.ReLU)
    assert isinstance(blocks[1][0].se, nn.Identity)
    assert isinstance(blocks[4][0].act1, nn.SiLU)
    assert blocks[4][0].se.conv_reduce.weight.shape == (40, 480, 1, 1)


@pytest.mark.parametrize(
    ("size", "kernel", "sides"),
    [(224, 3, (0, 1)), (225, 3, (1, 1)), (224, 5, (1, 2)), (224, 7, (2, 3)), (7, 7, (3, 3)), (14, 11, (4, 5))],
)
def test_same_padding_equals_tensorflows(size: int, kernel: int, sides: tuple[int, int]) -> None:
    assert layers.same_padding(size, kernel, 2) == sides


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (7, 9)])
def test_the_first_window_of_a_same_convolution_equals_tensorflows(height: int, width: int) -> None:
    same = layers.SamePadConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.zeros_(same.weight)
    same.weight.data[0, 0, 0, 0] = 1.0  # outputs the top left pixel of each window
    x = torch.arange(1.0, height * width + 1).reshape(1, 1, height, width)
    output = same(x)
    assert output.shape[2:] == (-(-height // 2), -(-width // 2))
    even = height % 2 == 0 and width % 2 == 0
    assert output[0, 0, 0, 0] == (1.0 if even else 0.0)  # the first pixel, or the padding before it


@pytest.mark.parametrize(("variant", "strided"), [("s", 13), ("m", 15), ("l", 15)])
def test_only_strided_convolutions_use_same_padding(variant: str, strided: int) -> None:
    net = on_meta(variant, padding="same", bn_eps=1e-3)
    padded = [layer for layer in net.modules() if isinstance(layer, layers.SamePadConv2d)]
    assert len(padded) == strided
    assert {layer.stride for layer in padded} == {(2, 2)}
    assert {layer.eps for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}
    assert list(net.state_dict()) == list(on_meta(variant).state_dict())


def test_eval_disables_dropout_and_padding_changes_the_output() -> None:
    torch.manual_seed(0)
    symmetric, same = mixnet.mixnet("s", classes=10).eval(), mixnet.mixnet("s", classes=10, padding="same").eval()
    same.load_state_dict(symmetric.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(symmetric(x), symmetric(x))
        assert (symmetric(x) - same(x)).abs().max() > 1e-2 * symmetric(x).abs().max()


@pytest.mark.parametrize(("option", "value"), [("variant", "xs"), ("padding", "valid"), ("bn_eps", 0.0)])
def test_the_error_for_an_invalid_option_contains_its_name(option: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"{option} cannot be {value!r}"):
        mixnet.mixnet(**{option: value})
