"""Tests of SqueezeNet: torchvision's names, the paper's sizes and bypasses, pooling with ceil_mode."""

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
squeezenet = import_module("deploytool.models.squeezenet")

LAYOUTS = Path(__file__).parent / "layouts"


def on_meta(version: str = "1.0", **options: object) -> Any:
    with torch.device("meta"):
        return squeezenet.squeezenet(version, **options).eval()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("bypass", ["none", "simple"])
def test_names_and_shapes_equal_torchvisions(bypass: str) -> None:
    published = [
        tuple(line.split("\t")) for line in (LAYOUTS / "torchvision_squeezenet1_1.txt").read_text().splitlines()
    ]
    state = on_meta("1.1", bypass=bypass).state_dict()
    assert [(key, str(tuple(value.shape))) for key, value in state.items()] == published


def test_fire_modules_of_1_0_have_torchvisions_indices() -> None:
    fires = [i for i, layer in enumerate(on_meta("1.0").features) if isinstance(layer, squeezenet.Fire)]
    assert fires == [3, 4, 5, 7, 8, 9, 10, 12]


def test_each_layer_has_the_papers_parameters() -> None:
    net = on_meta("1.0")
    sizes = [parameters(layer) for layer in (*net.features, *net.classifier)]
    paper = [14_208, 11_920, 12_432, 45_344, 49_440, 104_880, 111_024, 188_992, 197_184, 513_000]
    assert [size for size in sizes if size] == paper


@pytest.mark.parametrize(
    ("version", "size", "side"), [("1.0", 224, 13), ("1.0", 227, 13), ("1.1", 224, 13), ("1.1", 227, 14)]
)
def test_pooling_rounds_sizes_up(version: str, size: int, side: int) -> None:
    features = on_meta(version).features(torch.empty(1, 3, size, size, device="meta"))
    assert features.shape == (1, 512, side, side)


@pytest.mark.parametrize(("version", "smallest"), [("1.0", 21), ("1.1", 17)])
def test_the_smallest_image(version: str, smallest: int) -> None:
    assert on_meta(version)(torch.empty(2, 3, smallest, smallest, device="meta")).shape == (2, 1000)


def test_the_published_fire_plan() -> None:
    small, large = squeezenet.FireSize(16, 64, 64), squeezenet.FireSize(64, 256, 256)
    assert squeezenet.fire_plan()[:2] == (small, small)
    assert squeezenet.fire_plan()[6:] == (large, large)
    assert len(squeezenet.fire_plan()) == 8


@pytest.mark.parametrize(
    ("sr", "published"), [(0.125, 1_248_424), (0.25, 1_967_080), (0.5, 3_404_392), (0.75, 4_841_704), (1.0, 6_279_016)]
)
def test_squeeze_ratio_sweep(sr: float, published: int) -> None:
    assert parameters(on_meta(sr=sr)) == published


@pytest.mark.parametrize(
    ("pct3x3", "published"),
    [(0.01, 1_473_128), (0.25, 2_421_352), (0.5, 3_404_392), (0.75, 4_387_432), (0.99, 5_325_416)],
)
def test_share_of_3x3_sweep(pct3x3: float, published: int) -> None:
    assert parameters(on_meta(sr=0.5, pct3x3=pct3x3)) == published


@pytest.mark.parametrize(("version", "published"), [("1.0", 832_667_936), ("1.1", 387_747_520)])
def test_macs_at_the_papers_image_size(version: str, published: int) -> None:
    net, macs = on_meta(version), []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, _, out: macs.append(out.numel() * layer.weight[0].numel()))
    net(torch.empty(1, 3, 227, 227, device="meta"))
    assert sum(macs) == published


@pytest.mark.parametrize(
    ("bypass", "kinds"),
    [
        ("none", [None] * 8),
        ("simple", [None, nn.Identity] * 4),
        ("complex", [nn.Conv2d, nn.Identity] * 4),
    ],
)
def test_bypasses_are_those_of_the_paper(bypass: str, kinds: list[type | None]) -> None:
    fires = [layer for layer in on_meta(bypass=bypass).features if isinstance(layer, squeezenet.Fire)]
    assert [None if fire.bypass is None else type(fire.bypass) for fire in fires] == kinds


def test_a_bypass_adds_the_input_after_the_activations() -> None:
    torch.manual_seed(0)
    without, bypassed = (squeezenet.Fire(128, squeezenet.FireSize(16, 64, 64), bypass) for bypass in ("none", "simple"))
    bypassed.load_state_dict(without.state_dict())
    x = torch.randn(1, 128, 5, 5)
    assert torch.equal(bypassed(x), without(x) + x)
    assert bypassed(x).min() < 0


def test_logits_are_not_negative_and_deterministic_in_eval() -> None:
    torch.manual_seed(0)
    net = squeezenet.squeezenet("1.1", classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        assert net(x).min() >= 0


@pytest.mark.parametrize(("option", "value"), [("version", 1.0), ("version", "1_0"), ("bypass", "double"), ("freq", 0)])
def test_the_error_for_an_invalid_option_contains_its_name(option: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"{option} cannot be {value!r}"):
        squeezenet.squeezenet(**{option: value})


@pytest.mark.parametrize("option", [{"sr": 0.001}, {"pct3x3": 0.0}, {"pct3x3": 1.0}, {"base_e": 0}])
def test_a_plan_without_channels_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="without channels"):
        squeezenet.fire_plan(**option)
