"""Tests of the load stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploytool.backends import eager
from deploytool.data import images
from deploytool.loading import catalog
from deploytool.loading.checkpoints import random_init
from deploytool.loading.stage_inputs import StageInputs
from deploytool.spec import Job, Options, Preprocessing, Tensor
from deploytool.stages import load
from tests.conftest import QUICK, TINY

NO_INPUTS = StageInputs(())


def make(out: Path, seed: int = 0) -> bytes:
    load.make(Job(TINY, Options(seed=seed)), out, NO_INPUTS)
    return out.read_bytes()


def test_the_weights_depend_on_the_seed_of_the_options_only(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = make(tmp_path / "a")
    state = torch.get_rng_state()
    assert make(tmp_path / "b") == first
    assert make(tmp_path / "c", seed=1) != first
    assert torch.equal(torch.get_rng_state(), state), "the global random state of the user is unchanged"


def test_the_weights_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    model = catalog.find("mobilenet_v1_cifar")
    for threads in (1, 2):
        with eager.using_threads(threads):
            load.make(Job(model, QUICK), tmp_path / f"{threads}", NO_INPUTS)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_zoo_model_distinguishes_images_outside_the_calibration_batch(tmp_path: Path) -> None:
    model = catalog.find("mobilenet_v1_025", [Tensor("input", ("batch", 3, 64, 64))])
    notes = load.make(Job(model, QUICK), tmp_path / "weights", NO_INPUTS)
    assert notes["weights"] == "seed 0"
    batch = images.normalise(images.dead_leaves(32, 64, 64, seed=99), Preprocessing())
    with eager.start(tmp_path / "weights") as session:
        logits = session(input=batch)["logits"]
    assert len(set(logits.argmax(1).tolist())) >= 8
    assert logits.std(axis=0).mean() > 0.5 * logits.std()


def test_a_deep_network_does_not_amplify_noise() -> None:
    """Uncalibrated random weights fail this by a factor of hundreds: FP16 rounding errors would exceed the logits."""

    def block(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]

    torch.manual_seed(0)
    first = [nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    deep = [layer for _ in range(30) for layer in block(16)]
    net = nn.Sequential(*first, *deep, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()
    batch = torch.from_numpy(images.normalise(images.dead_leaves(16, 32, 32, seed=1), Preprocessing()))
    with torch.no_grad():
        random_init.calibrate(net, batch)
        clean, noisy = net(batch), net(batch * (1 + 1e-3 * torch.randn_like(batch)))
    assert (clean - noisy).abs().max() / clean.abs().max() < 2e-2
    assert not net.training


def test_a_user_model_keeps_the_weights_of_its_factory(tmp_path: Path) -> None:
    notes = load.make(Job(TINY, QUICK), tmp_path / "weights", NO_INPUTS)
    module = eager.load_module(tmp_path / "weights")
    assert notes["weights"] == "as created by the factory"
    assert notes["parameters"] == sum(np.prod(parameter.shape) for parameter in module.parameters())
    assert torch.equal(module.get_parameter("stem.1.weight"), torch.ones(8))


def test_a_model_that_modifies_its_input_in_place_is_supported(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\nclass Net(nn.Linear):\n  def forward(self, x): return super().forward(x.sub_(1))\n"
    )
    vector = (Tensor("vector", ("batch", 4)),)
    model = dataclasses.replace(
        TINY, factory=f"{file}:Net", options={"in_features": 4, "out_features": 3}, inputs=vector
    )
    notes = load.make(Job(model, QUICK), tmp_path / "weights", NO_INPUTS)
    assert notes["parameters"] == 15
