"""A module that takes pixels answers as the module itself does for normalised images, and stays what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager
from deploytool.blame import torch_trace
from deploytool.data import pixel_inputs
from deploytool.data.golden import Floor, Noise
from deploytool.errors import BadInput, ParityFailed
from deploytool.loading.checkpoints import embedded_definition
from deploytool.loading.module import build, pixels
from deploytool.parity import normalised_pixels
from deploytool.spec import Model, Preprocessing, Tensor
from tests import pixels as nets
from tests.pixels import by_channel

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
Arrays = dict[str, npt.NDArray[Any]]


def taking(own: tuple[int, ...], layout: str, how: Preprocessing, *others: Tensor, name: str = "first") -> Model:
    inputs = (*others, Tensor("image", ("batch", *own)))
    outputs, factory = (Tensor("logits", ("batch", 10)),), f"{nets.__file__}:{name}"
    return pixel_inputs.taking_pixels(Model("net", factory, inputs=inputs, outputs=outputs, preprocessing=how), layout)


def drawn(layout: str, channels: int = 3) -> tuple[npt.NDArray[np.uint8], torch.Tensor]:
    """Pixels in NHWC, and as the model gets them."""
    made = np.random.default_rng(0).integers(0, 256, (3, 8, 10, channels)).astype(np.uint8)
    made[0], made[1] = 0, 255
    return made, torch.from_numpy(made if layout == "NHWC" else np.ascontiguousarray(made.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("how", "is_last"),
    [
        (Preprocessing(mean=MEAN, std=STD), False),
        (Preprocessing(mean=MEAN, std=STD, channels="BGR"), False),
        (Preprocessing(mean=MEAN, std=STD, channels="BGR", layout="NHWC"), True),
        (Preprocessing(mean=(120.0, 110.0, 100.0), std=(1.0,), scale=1.0), False),
        (Preprocessing(mean=(0.0,), std=(1.0,), scale=1.0), False),
    ],
)
def test_the_answers_are_equal(how: Preprocessing, is_last: bool, layout: str) -> None:
    own = (8, 10, 3) if is_last else (3, 8, 10)
    net, (bytes_, given) = nets.Net(last=is_last).eval(), drawn(layout)
    images = by_channel(bytes_, how.mean, how.std, how.scale, bgr=how.channels == "BGR")
    images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if is_last else images
    with torch.no_grad():
        assert torch.equal(pixels.taking(net, taking(own, layout, how))(given), net(torch.from_numpy(images)))


def test_a_grey_image_and_an_input_before_the_image() -> None:
    how = Preprocessing(mean=(0.5,), std=(0.25,), stated=("mean",))
    grey, (bytes_, given) = nets.Net(1).eval(), drawn("NHWC", 1)
    images = torch.from_numpy(by_channel(bytes_, how.mean, how.std, how.scale))
    vector = torch.arange(12.0).reshape(3, 4)
    fused, (coloured, colours) = nets.Fused().eval(), drawn("NHWC")
    expected = torch.from_numpy(by_channel(coloured, how.mean, how.std, how.scale))
    with torch.no_grad():
        assert torch.equal(pixels.taking(grey, taking((1, 8, 10), "NHWC", how))(given), grey(images))
        both = taking((3, 8, 10), "NHWC", how, Tensor("vector", ("batch", 4)))
        assert torch.equal(pixels.taking(fused, both)(vector, colours), fused(vector, expected))


def test_hooks_of_the_model_get_images() -> None:
    how = Preprocessing(mean=MEAN, std=STD)
    net, (bytes_, given) = nets.Hooked().eval(), drawn("NHWC")
    images = torch.from_numpy(by_channel(bytes_, MEAN, STD, 1 / 255))
    changed = pixels.taking(net, taking((3, 8, 10), "NHWC", how))
    with torch.no_grad():
        assert torch.equal(changed(given), net(images))


def test_the_module_keeps_its_type_its_weights_and_its_memory() -> None:
    net, (_, given) = nets.Counting().eval(), drawn("NHWC")
    changed = pixels.taking(net, taking((3, 8, 10), "NHWC", Preprocessing()))
    assert type(changed) is nets.Counting
    assert list(changed.state_dict()) == list(net.state_dict())
    assert [name for name, _ in changed.named_modules()] == [name for name, _ in net.named_modules()]
    changed(given)
    assert (changed.calls, net.calls) == (1, 0)
    assert pixels.taking(net, pixel_inputs.original(taking((3, 8, 10), "NHWC", Preprocessing()))) is net


def test_a_factory_may_return_one_module_again() -> None:
    model = taking((3, 8, 10), "NHWC", Preprocessing(), name="shared")
    _, given = drawn("NHWC")
    once, again = build.build(model).module(given), build.build(model).module(given)
    assert torch.equal(once, again)
    own = build.build(pixel_inputs.original(model)).module
    with pytest.raises(RuntimeError):
        own(given)


def stored(model: Model, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    eager.save(build.build(model).module.state_dict(), model, path)
    return path


def test_the_check_of_a_run_fails_for_another_normalisation(tmp_path: Path) -> None:
    model = taking((3, 8, 10), "NHWC", Preprocessing(mean=MEAN, std=STD))
    weights, (bytes_, _) = stored(model, tmp_path), drawn("NHWC")
    inputs, noise = {"image": bytes_}, Noise(Floor(1e-7, 1e-7), Floor(1e-3, 1e-3))
    with eager.start(weights) as session:
        outputs = session(**inputs)
    assert normalised_pixels.check(weights, inputs, outputs, noise, {}) == 0
    assert model.normalisation is not None
    shifted = replace(model, normalisation=replace(model.normalisation, mean=(0.5, 0.4, 0.301)))
    with eager.start(stored(shifted, tmp_path)) as session:
        wrong = session(**inputs)
    with pytest.raises(ParityFailed, match="the normalisation in the model deviates: against images that the host"):
        normalised_pixels.check(stored(model, tmp_path), inputs, wrong, noise, {})


def test_blame_sees_the_same_calls_in_fp64(tmp_path: Path) -> None:
    weights, (bytes_, _) = stored(taking((3, 8, 10), "NHWC", Preprocessing()), tmp_path), drawn("NHWC")
    calls = torch_trace.trace(weights, {"image": bytes_}).calls
    assert (3, 3, 8, 10) in {call.values.shape for call in calls}
    assert {"body.0", "body.2", "head"} <= {call.module for call in calls}


class Plain(nn.Module):
    """A model with a constant that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.head = torch.tensor([0.5]), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(x * self.gain)


def test_blame_of_a_model_with_a_plain_constant(tmp_path: Path) -> None:
    inputs, outputs = (Tensor("x", ("batch", 4)),), (Tensor("y", ("batch", 2)),)
    weights = stored(Model("plain", f"{__file__}:Plain", inputs=inputs, outputs=outputs), tmp_path)
    assert len(torch_trace.trace(weights, {"x": np.ones((2, 4), np.float32)}).calls) == 2


def test_the_weights_of_a_run_are_those_of_the_model_itself() -> None:
    model = taking((3, 8, 10), "NHWC", Preprocessing(mean=MEAN, std=STD))
    assert embedded_definition.from_metadata({"model": serde.text(model)}) == pixel_inputs.original(model)
    damaged = replace(model, inputs=(Tensor("other", ()),))
    read = embedded_definition.from_metadata({"model": serde.text(damaged)})
    assert read is not None
    assert read.inputs == damaged.inputs
    assert model.normalisation is not None
    invalid = replace(model, normalisation=replace(model.normalisation, std=(0.0,)))
    with pytest.raises(BadInput, match="definition in the metadata of this file is invalid"):
        embedded_definition.from_metadata({"model": serde.text(invalid)})
