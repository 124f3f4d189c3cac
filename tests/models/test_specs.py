"""Tests of all models of the table: published counts, shapes, and properties that exporters require."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploytool.errors import BadInput
from deploytool.loading.factory import mount_zoo, resolve
from deploytool.spec import Model

mount_zoo()
specs = import_module("deploytool.models.specs")

BY_NAME: dict[str, Model] = {model.name: model for model in specs.ZOO}
PARAMETERS_AT_10_CLASSES = {
    "shufflenet_g1": 960_706,
    "shufflenet_g2": 940_858,
    "shufflenet_g3": 914_338,
    "shufflenet_g4": 890_234,
    "shufflenet_g8": 913_138,
    "mixnet_s": 2_612_976,
    "mixnet_m": 3_492_752,
    "mixnet_l": 5_807_622,
    "squeezenet1_0": 740_554,
    "squeezenet1_1": 727_626,
    "mobilenet_v1": 3_217_226,
    "mobilenet_v1_cifar": 3_217_226,
}


def build(model: Model, **changes: int) -> nn.Module:
    """The model on the meta device, which suffices for counting."""
    with torch.device("meta"):
        net: nn.Module = resolve(model.factory)(**{**model.options, **changes})
    return net.eval()


def run_on_meta(net: nn.Module, batch: int, size: int) -> Tensor:
    output: Tensor = net(torch.empty(batch, 3, size, size, device="meta"))
    return output


def count_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, size: int) -> int:
    macs = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs
        weight = layer.get_parameter("weight")
        macs += output.numel() * weight[0].numel()  # the weight has the input channels of one group

    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(add)
    run_on_meta(net, 1, size)
    return macs


def for_models(names: tuple[str, ...] = tuple(BY_NAME)) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", [BY_NAME[name] for name in names], ids=names)


def test_the_table_does_not_import_torch() -> None:
    program = (
        "import sys; from deploytool.loading.factory import mount_zoo; mount_zoo(); "
        "import deploytool.models.specs; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


def test_names_are_unique_and_include_the_main_models() -> None:
    assert len(BY_NAME) == len(specs.ZOO) == 48
    assert len(specs.MAIN) == len(set(specs.MAIN)) == 12
    assert set(specs.MAIN) <= set(BY_NAME)


@for_models()
def test_parameters_and_macs_equal_the_published_counts(model: Model) -> None:
    net = build(model)
    assert count_parameters(net) == model.parameters
    assert count_macs(net, model.preprocessing.crop_size[0]) == model.macs


@for_models()
def test_inputs_and_outputs_have_the_declared_shapes(model: Model) -> None:
    (model_input,), (model_output,) = model.inputs, model.outputs
    assert model_input.shape == ("batch", 3, *model.preprocessing.crop_size)
    assert run_on_meta(build(model), 2, model.preprocessing.crop_size[0]).shape == (2, *model_output.shape[1:])


@for_models(specs.MAIN)
def test_parameters_at_ten_classes(model: Model) -> None:
    assert count_parameters(build(model, classes=10)) == PARAMETERS_AT_10_CLASSES[model.name]


@for_models(specs.MAIN)
@pytest.mark.parametrize("size", [32, 36, 64, 192, 224, 256])
def test_any_image_size_is_accepted(model: Model, size: int) -> None:
    assert run_on_meta(build(model), 3, size).shape == (3, model.outputs[0].shape[1])


@for_models(specs.MAIN)
def test_construction_prints_nothing(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    build(model)
    assert capfd.readouterr() == ("", "")


@for_models()
def test_no_layer_is_shared(model: Model) -> None:
    layers = [layer for _, layer in build(model).named_modules(remove_duplicate=False)]
    assert len(layers) == len(set(map(id, layers)))


@for_models(specs.MAIN)
def test_no_layer_operates_in_place(model: Model) -> None:
    assert not [name for name, layer in build(model).named_modules() if getattr(layer, "inplace", False)]


@for_models(("shufflenet_g3_x0_25", "mixnet_s", "squeezenet1_1", "mobilenet_v1_025"))
def test_initial_weights_are_reproducible_and_preserve_the_scale(model: Model) -> None:
    logits = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        net = resolve(model.factory)(**model.options).eval()
        with torch.no_grad():
            logits.append(net(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert 1e-4 < logits[0].abs().max() < 1e2  # neither vanishing nor outside the range of FP16


def test_zero_classes_are_refused() -> None:
    for name in specs.MAIN:
        with pytest.raises(BadInput, match="classes cannot be 0"):
            build(BY_NAME[name], classes=0)
