"""Every model of the table is built, and must have the published figures and none of the published faults."""

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
    """The model without weights: shapes are all that counting needs."""
    with torch.device("meta"):
        net: nn.Module = resolve(model.factory)(**{**model.options, **changes})
    return net.eval()


def answer(net: nn.Module, batch: int, size: int) -> Tensor:
    output: Tensor = net(torch.empty(batch, 3, size, size, device="meta"))
    return output


def count_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, size: int) -> int:
    macs = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs
        weight = layer.get_parameter("weight")
        macs += output.numel() * weight[0].numel()  # a grouped convolution's weight has the channels of one group

    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(add)
    answer(net, 1, size)
    return macs


def each(names: tuple[str, ...] = tuple(BY_NAME)) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", [BY_NAME[name] for name in names], ids=names)


def test_the_table_needs_no_torch() -> None:
    program = (
        "import sys; from deploytool.loading.factory import mount_zoo; mount_zoo(); "
        "import deploytool.models.specs; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


def test_names_are_unique_and_the_main_models_are_among_them() -> None:
    assert len(BY_NAME) == len(specs.ZOO) == 48
    assert len(specs.MAIN) == len(set(specs.MAIN)) == 12
    assert set(specs.MAIN) <= set(BY_NAME)


@each()
def test_parameters_and_macs_are_the_published_ones(model: Model) -> None:
    net = build(model)
    assert count_parameters(net) == model.parameters
    assert count_macs(net, model.preprocessing.window[0]) == model.macs


@each()
def test_inputs_and_outputs_are_as_declared(model: Model) -> None:
    (given,), (made,) = model.inputs, model.outputs
    assert given.shape == ("batch", 3, *model.preprocessing.window)
    assert answer(build(model), 2, model.preprocessing.window[0]).shape == (2, *made.shape[1:])


@each(specs.MAIN)
def test_parameters_at_ten_classes(model: Model) -> None:
    assert count_parameters(build(model, classes=10)) == PARAMETERS_AT_10_CLASSES[model.name]


@each(specs.MAIN)
@pytest.mark.parametrize("size", [32, 36, 64, 192, 224, 256])
def test_any_input_size_keeps_the_batch(model: Model, size: int) -> None:
    assert answer(build(model), 3, size).shape == (3, model.outputs[0].shape[1])


@each(specs.MAIN)
def test_construction_says_nothing(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    build(model)
    assert capfd.readouterr() == ("", "")


@each()
def test_no_layer_is_used_in_two_places(model: Model) -> None:
    layers = [layer for _, layer in build(model).named_modules(remove_duplicate=False)]
    assert len(layers) == len(set(map(id, layers)))


@each(specs.MAIN)
def test_no_layer_works_in_place(model: Model) -> None:
    assert not [name for name, layer in build(model).named_modules() if getattr(layer, "inplace", False)]


@each(("shufflenet_g3_x0_25", "mixnet_s", "squeezenet1_1", "mobilenet_v1_025"))
def test_first_weights_follow_the_seed_and_carry_a_signal(model: Model) -> None:
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        net = resolve(model.factory)(**model.options).eval()
        with torch.no_grad():
            answers.append(net(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert 1e-4 < answers[0].abs().max() < 1e2  # neither dead nor beyond half precision


def test_an_impossible_number_of_classes_is_refused() -> None:
    for name in specs.MAIN:
        with pytest.raises(BadInput, match="classes cannot be 0"):
            build(BY_NAME[name], classes=0)
