"""Tests of counting parameters and multiply-accumulates per layer."""

from __future__ import annotations

import dataclasses
import json

import pytest

from deploytool.errors import StageFailed
from deploytool.loading import catalog
from deploytool.loading.cost import costs
from deploytool.spec import Tensor
from tests.conftest import ROOT, TINY, Command


@pytest.mark.parametrize("name", ["shufflenet_g3", "mixnet_s", "squeezenet1_0", "mobilenet_v1"])
def test_the_layers_add_up_to_the_published_count(name: str) -> None:
    model = catalog.find(name)
    assert sum(layer.macs for layer in costs(model)) == model.macs


def test_the_formulas_of_the_papers_hold_for_each_layer() -> None:
    layers = {layer.layer: layer for layer in costs(catalog.find("mobilenet_v1"))}
    depthwise, pointwise = layers["blocks.3.1.conv_dw"], layers["blocks.3.1.conv_pw"]
    assert (depthwise.kind, pointwise.kind) == ("depthwise", "pointwise")
    assert depthwise.macs == 3 * 3 * 512 * 14 * 14
    assert pointwise.macs == 512 * 512 * 14 * 14
    dense = 3 * 3 * 512 * 512 * 14 * 14
    assert (depthwise.macs + pointwise.macs) / dense == pytest.approx(1 / 512 + 1 / 9)
    grouped = next(layer for layer in costs(catalog.find("shufflenet_g3")) if layer.layer == "stage3.1.expand")
    assert (grouped.kind, grouped.groups) == ("grouped pointwise", 3)
    assert grouped.parameters == 120 // 3 * 480
    assert grouped.macs == 120 // 3 * 480 * 14 * 14


def test_the_error_for_a_model_that_does_not_run_contains_its_name() -> None:
    with pytest.raises(StageFailed, match="tiny cannot be counted"):
        costs(dataclasses.replace(TINY, inputs=(Tensor("input", ("batch", 5, 32, 32)),)))


def test_show_prints_the_costs(deploytool: Command) -> None:
    output = deploytool("show", "--cost", "mobilenet_v1_cifar").stdout
    assert "46,354,432 multiply-accumulates" in output
    assert "blocks.0.0.conv_dw" in output
    layers = json.loads(deploytool("show", "--cost", "mobilenet_v1_cifar", "--json").stdout)["layers"]
    assert sum(layer["macs"] for layer in layers) == 46_354_432
    refused = deploytool("show", "--cost", "mobilnet_v1")
    assert refused.returncode == 2
    assert "did you mean mobilenet_v1?" in refused.stderr


def test_the_next_step_for_a_users_model_is_a_complete_command(deploytool: Command) -> None:
    path = f"{ROOT / 'tests' / 'user_models' / 'input_dtypes.py'}:Mean"
    shown = deploytool("show", "--cost", path, "--input", "image=3x8x8")
    assert shown.stdout.splitlines()[-1] == f"Next: deploytool export {path} --input image=3x8x8"
