"""Tests of ShuffleNet: the paper's shuffle, all widths and groups, and the options of published checkpoints."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from deploytool.errors import BadInput
from deploytool.loading.factory import mount_zoo

mount_zoo()
shufflenet = import_module("deploytool.models.shufflenet")
specs = import_module("deploytool.models.specs")

GROUPS = (1, 2, 3, 4, 8)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def on_meta(groups: int, **options: object) -> Any:
    with torch.device("meta"):
        return shufflenet.shufflenet(groups, **options).eval()


def with_random_norms(net: nn.Module) -> Any:
    """`net` with random batch norm statistics, in evaluation mode."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)  # type: ignore[arg-type]  # tracked, so not None
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]  # tracked, so not None
    return net.eval()


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def test_the_shuffle_interleaves_the_groups() -> None:
    channels = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shufflenet.ChannelShuffle(6, 2)(channels).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("groups", GROUPS)
def test_the_shuffle_equals_the_papers_and_its_inverse_undoes_it(groups: int) -> None:
    x = torch.randn(2, 48, 5, 7)
    batch, channels, height, width = x.shape
    grouped = x.view(batch, groups, channels // groups, height, width)
    shuffled = shufflenet.ChannelShuffle(48, groups)(x)
    assert torch.equal(shuffled, torch.transpose(grouped, 1, 2).contiguous().view(x.shape))
    assert torch.equal(shuffled, grouped.permute(0, 2, 1, 3, 4).flatten(1, 2))
    assert torch.equal(shuffled, shufflenet.ChannelShuffle(48, groups)(x.to(memory_format=torch.channels_last)))
    assert torch.equal(shufflenet.ChannelShuffle(48, 48 // groups)(shuffled), x)


@pytest.mark.parametrize("width", sorted(shufflenet.STEM))
@pytest.mark.parametrize("groups", GROUPS)
def test_every_width_and_group_count_runs(groups: int, width: float) -> None:
    with torch.no_grad():
        assert shufflenet.shufflenet(groups, width, classes=10).eval()(torch.randn(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("groups", "width", "stem", "middles"),
    [
        (1, 1.0, 24, (36, 72, 144)),
        (2, 0.5, 12, (26, 50, 100)),
        (3, 1.0, 24, (60, 120, 240)),
        (4, 0.25, 8, (16, 36, 68)),
        (8, 0.5, 16, (48, 96, 192)),
        (8, 1.0, 24, (96, 192, 384)),
    ],
)
def test_channels_are_a_quarter_of_the_output(
    groups: int, width: float, stem: int, middles: tuple[int, int, int]
) -> None:
    net = on_meta(groups, width=width)
    assert net.stem.out_channels == stem
    assert tuple(stage[0].compress.out_channels for stage in (net.stage2, net.stage3, net.stage4)) == middles


@pytest.mark.parametrize("groups", GROUPS)
def test_only_the_first_pointwise_convolution_is_not_grouped(groups: int) -> None:
    net = on_meta(groups)
    pointwise = [unit.compress.groups for stage in (net.stage2, net.stage3, net.stage4) for unit in stage]
    assert pointwise == [1] + [groups] * 15


@pytest.mark.parametrize(("groups", "paper"), list(zip(GROUPS, (143, 140, 137, 133, 137), strict=True)))
def test_macs_equal_the_papers_table_1(groups: int, paper: int) -> None:
    (model,) = (model for model in specs.ZOO if model.name == f"shufflenet_g{groups}")
    without_classifier = model.macs - on_meta(groups).classifier.weight.numel()
    assert abs(without_classifier / 1e6 - paper) <= 0.5 + 1e-3


CIFAR_MACS = (44_546_688, 43_743_552, 42_590_592, 41_531_008, 42_703_872)


@pytest.mark.parametrize(("groups", "published"), list(zip(GROUPS, CIFAR_MACS, strict=True)))
def test_macs_with_the_cifar_stem(groups: int, published: int) -> None:
    net, macs = on_meta(groups, classes=10, stem="cifar"), []
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda layer, _, out: macs.append(out.numel() * layer.weight[0].numel()))
    net(torch.empty(1, 3, 32, 32, device="meta"))
    assert sum(macs) == published


@pytest.mark.parametrize(
    "option", [{"shuffle_order": "megvii"}, {"shuffle_place": "after"}, {"concat_order": "shortcut_first"}]
)
@pytest.mark.parametrize("groups", [3, 8])
def test_each_checkpoint_option_changes_the_output(groups: int, option: dict[str, str]) -> None:
    default = with_random_norms(shufflenet.shufflenet(groups, 0.5))
    changed = shufflenet.shufflenet(groups, 0.5, **option).eval()
    changed.load_state_dict(default.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, actual = default(x), changed(x)
    assert (expected - actual).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("order", ["paper", "megvii"])
@pytest.mark.parametrize(("inputs", "outputs"), [(240, 240), (24, 240)])
def test_a_shuffle_after_equals_one_before_with_shuffled_depthwise_weights(
    order: str, inputs: int, outputs: int
) -> None:
    after = with_random_norms(shufflenet.Unit(inputs, outputs, shufflenet.Mixing(3, order, "after", "main_first")))
    before = shufflenet.Unit(inputs, outputs, shufflenet.Mixing(3, order, "before", "main_first")).eval()
    before.load_state_dict(after.state_dict())

    def shuffle(tensor: Tensor) -> Tensor:
        shuffled: Tensor = after.shuffle_after(tensor.reshape(1, 60, -1, 1)).reshape(tensor.shape)
        return shuffled

    with torch.no_grad():
        for name in ("depthwise.weight", "depthwise_bn.running_mean", "depthwise_bn.running_var"):
            tensor = before.state_dict()[name]
            tensor.copy_(shuffle(tensor))
        x = torch.randn(2, inputs, 8, 8)
        torch.testing.assert_close(before(x), after(x))


def test_megvii_classifier_has_no_bias() -> None:
    assert parameters(on_meta(3, classifier_bias=False)) == 1_864_728
    assert parameters(on_meta(8, width=2.0, classifier_bias=False)) == 6_521_232


def test_the_pooling_of_the_shortcut_includes_the_padding() -> None:
    shortcut = shufflenet.Unit(24, 240, shufflenet.Mixing(3, "paper", "before", "main_first")).shortcut
    corner = shortcut(torch.ones(1, 24, 8, 8))[0, 0, 0, 0]
    assert corner == pytest.approx(4 / 9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the TorchScript-based exporter is deprecated
def test_a_shuffle_exports_as_reshape_transpose_reshape(tmp_path: Path) -> None:
    file = tmp_path / "shufflenet.onnx"
    net, x = shufflenet.shufflenet(3, 0.25).eval(), torch.randn(2, 3, 64, 64)
    torch.onnx.export(net, (x,), file, dynamo=False, input_names=["input"], dynamic_axes={"input": {0: "batch"}})
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert (kinds.count("Reshape"), kinds.count("Transpose")) == (32, 16)
    assert not {"Shape", "Gather", "Unsqueeze", "Slice", "Cast"} & set(kinds)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("groups", 5),
        ("width", 0.3),
        ("stem", "mnist"),
        ("shuffle_order", "none"),
        ("shuffle_place", "between"),
        ("concat_order", "last"),
    ],
)
def test_the_error_for_an_invalid_option_contains_its_name(option: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"{option} cannot be {value!r}") as caught:
        shufflenet.shufflenet(**{"groups": 3, option: value})
    assert option in caught.value.remedy
