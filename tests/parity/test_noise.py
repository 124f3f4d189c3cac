from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from onnx import helper
from onnx.parser import parse_graph
from torch import nn

from deploytool import serde
from deploytool.backends import eager, fp16_emulation, onnxruntime
from deploytool.data import golden, synthetic
from deploytool.data.golden import Floor, Golden, Noise
from deploytool.loading import catalog, factory, weights_file
from deploytool.parity import metrics, noise, rounding
from deploytool.parity.replay import replay
from deploytool.spec import Model, Precision, Tensor
from tests.conftest import TINY
from tests.user_model_export import OWN

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def sample(finished: Path) -> Golden:
    return golden.read(finished / "golden" / "golden.npz")


def measured(weights: Path, sample: Golden) -> Noise:
    return noise.measure(
        eager.load_module(weights), weights_file.definition(weights), sample.inputs, sample.reference
    ).noise


def test_the_recorded_noise_is_the_measured_noise(finished: Path, sample: Golden) -> None:
    assert measured(finished / "load" / "weights.safetensors", sample) == sample.noise


def test_fp16_noise_is_over_a_thousand_times_fp32_noise(sample: Golden) -> None:
    assert 2.0**-26 < sample.noise.fp32.max_error < 1e-5
    assert 2.0**-13 < sample.noise.fp16.max_error < 1e-2
    assert sample.noise.fp16.rms > 1000 * sample.noise.fp32.rms


def test_noise_is_measured_on_the_noisiest_cases(finished: Path) -> None:
    weights = finished / "load" / "weights.safetensors"
    _, inputs = synthetic.draw(TINY, 16, 7, {})
    module, model = eager.load_module(weights), weights_file.definition(weights)
    with eager.start(weights, double=True) as exact:
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        errors = metrics.rms_errors(
            noise._run_rounded(module, model, given, rounding.FP16.nearest), replay(exact, inputs)
        )
        order = np.argsort(errors)
        inputs = {name: array[order] for name, array in inputs.items()}
        measurement = noise.measure(module, model, inputs, replay(exact, inputs)).noise
    assert 2.0**-13 < errors.min() < errors.max() < 1e-2
    assert measurement.fp16.rms > 0.99 * errors.max() > 1.5 * errors[order[:4]].max()


def test_noise_predicts_the_error_of_the_graphs(finished: Path, sample: Golden) -> None:
    with onnxruntime.start(finished / "simplify" / "model.onnx") as exact:
        single = metrics.compare(replay(exact, sample.inputs), sample.reference).max_error
    with fp16_emulation.start(finished / "fp16" / "model.onnx") as session:
        half = metrics.compare(replay(session, sample.inputs), sample.reference).max_error
    assert sample.noise.fp32.max_error / 5 < single < 5 * sample.noise.fp32.max_error
    assert sample.noise.fp16.max_error / 5 < half < 5 * sample.noise.fp16.max_error


def test_an_fp16_overflow_is_not_noise(finished: Path, sample: Golden, tmp_path: Path) -> None:
    weights = finished / "load" / "weights.safetensors"
    module, model = eager.load_module(weights), weights_file.definition(weights)
    module.get_parameter("stem.0.weight").mul_(1e6)
    module.get_parameter("classifier.weight").mul_(1e-6)
    loud = tmp_path / "weights.safetensors"
    eager.save(module.state_dict(), model, loud)
    with eager.start(loud, double=True) as exact:
        reference = replay(exact, sample.inputs)
    measurement = measured(loud, dataclasses.replace(sample, reference=reference))
    assert measurement.fp16.max_error < 1e-2
    assert measurement.fp32.max_error < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_stochastic_rounding_is_unbiased(seed: int) -> None:
    exact = torch.linspace(0.1, 3.0, 1000)
    mean = torch.stack([rounding.FP16.stochastic(draw)(exact) for draw in range(seed * 100, seed * 100 + 100)]).mean(0)
    nearest = rounding.FP16.nearest(exact)
    assert float((mean - exact).abs().max()) < float((nearest - exact).abs().max())
    moved = rounding.stochastic_fp32(seed)(exact)
    assert 0 < int((moved != exact).sum()) < 1000
    np.testing.assert_allclose(moved, exact, rtol=3e-7)


def measure_user_model(name: str, pictures: Array) -> noise.NoiseMeasurement:
    """The noise of a model of tests/user_models; fails if the measurement changes its weights."""
    model = catalog.find(f"{OWN}/{name}", (Tensor("image", ("batch", *pictures.shape[1:])),))
    model = dataclasses.replace(model, outputs=(Tensor("scores", ("batch", 10)),))
    made: nn.Module = factory.resolve(model.factory)(**model.options)
    module, inputs = made.eval().requires_grad_(False), {"image": pictures}
    original = copy.deepcopy(module)
    with torch.inference_mode():
        answer = copy.deepcopy(module).double()(torch.from_numpy(pictures).double()).numpy()
    measurement = noise.measure(module, model, inputs, {"scores": answer})
    assert all(torch.equal(value, original.state_dict()[key]) for key, value in module.state_dict().items())
    return measurement


def pictures(side: int, count: int = 6) -> Array:
    drawn = np.random.default_rng(0).random((count, 3, side, side), np.float32)
    drawn[:, :, 0] = 1
    return drawn


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("Viewed", ["channels-last"]),
        ("Strided", ["channels-last"]),
        ("Paired", ["single-case"]),
        ("Guarded", ["nearest FP16 rounding", "random FP32 rounding", "random FP16 rounding"]),
        ("Bounded", ["random FP32 rounding"]),
    ],
)
def test_an_unsupported_run_is_left_out_with_a_remark(name: str, left_out: list[str]) -> None:
    measurement = measure_user_model(f"restricted_inputs.py:{name}", pictures(32))
    assert [remark.partition(", which")[0] for remark in measurement.remarks] == [
        f"noise is measured without the {each} run" for each in left_out
    ]
    assert 1e-8 < measurement.noise.fp32.max_error < 2e-6
    assert measurement.noise.fp16.max_error < 3e-3
    assert (measurement.noise.fp16.max_error > 1e-4) == (name != "Guarded")


@pytest.mark.parametrize("side", [32, 64, 128, 224])
def test_noise_of_images_of_one_colour_covers_the_drift_of_sums(side: int) -> None:
    """The drift is that of ONNX Runtime's GlobalAveragePool on equal values; a tolerance allows about twice as much."""
    size = side // 2
    graph = parse_graph(f"g (float[1,16,{size},{size}] x) => (float[1,16,1,1] y) {{ y = GlobalAveragePool(x) }}")
    pool = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    levels = np.linspace(0.2, 1.7, 16, dtype=np.float32)[None, :, None, None]
    with onnxruntime.start(pool.SerializeToString()) as session:
        pooled = session(x=np.broadcast_to(levels, (1, 16, size, size)).copy())["y"]
    drift = float(np.abs(pooled / levels.astype(np.float64) - 1).max())
    colours = np.broadcast_to(pictures(2)[:4, :, 1:, 1:], (4, 3, side, side)).copy()
    plain, measurement = (
        measure_user_model("long_sums.py:make", each).noise.fp32 for each in (pictures(side)[:4], colours)
    )
    assert plain.max_error < 1e-6
    assert max(0.1 * drift, 2e-7) < 8 * measurement.max_error < max(2 * drift, 1e-5)


def test_tolerances_grow_with_the_size_of_the_input(finished: Path, sample: Golden) -> None:
    weights = finished / "load" / "weights.safetensors"
    at = noise.NoiseAtSizes(weights, {}, sample.noise)
    colours = pictures(2)[:2, :, 1:, 1:]
    small, large = (
        at(f"H {side}", {"input": np.broadcast_to(colours, (2, 3, side, side)).copy()}).fp32 for side in (32, 256)
    )
    assert large.max_error > 3 * small.max_error
    assert large.snr_db < small.snr_db - 10
    assert at("H 256", {}).fp32 == large  # measured once


def in_place_chain(x: torch.Tensor) -> torch.Tensor:
    x.sub_(0.3).div_(0.25)
    return x


def augmented_assignment(x: torch.Tensor) -> torch.Tensor:
    x -= 0.3
    x /= 0.25
    return x


def out_argument(x: torch.Tensor) -> torch.Tensor:
    torch.sub(x, 0.3, out=x)
    return x.div_(0.25)


def in_place_view(x: torch.Tensor) -> torch.Tensor:
    x[:, 0].sub_(0.3).mul_(4)
    x[:, 1:] *= 2
    return x


def in_place_layer(x: torch.Tensor) -> torch.Tensor:
    nn.functional.silu(x, inplace=True).mul_(2)
    return x


def out_of_place(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().sub(0.3).div(0.25)


class Normalising(nn.Module):
    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.how, self.last = how, nn.Linear(12, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.how(image).flatten(1))  # type: ignore[no-any-return]  # a Module call


@pytest.mark.parametrize(
    "how", [in_place_chain, augmented_assignment, out_argument, in_place_view, in_place_layer, out_of_place]
)
def test_in_place_results_are_rounded_in_place(how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    module = Normalising(how).eval().requires_grad_(False)
    model = Model(
        "own", "own", inputs=(Tensor("image", ("batch", 3, 2, 2)),), outputs=(Tensor("scores", ("batch", 5)),)
    )
    inputs = {"image": np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)}
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(torch.from_numpy(inputs["image"].astype(np.float64))).numpy()
        measurement = noise.measure(module, model, inputs, {"scores": exact}).noise
    assert measurement.fp32.max_error < 2e-6
    assert measurement.fp16.max_error < 1e-2


def noise_of(module: nn.Module, model: Model, inputs: dict[str, npt.NDArray[Any]]) -> Noise:
    module.eval().requires_grad_(False)
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    doubles = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
    exact = copy.deepcopy(module).double()(*doubles).numpy()
    return noise.measure(module, model, inputs, {model.outputs[0].name: exact}).noise


class Buckets(nn.Module):
    """Relative positions in logarithmic buckets, as in T5: the logarithm of 16 is at the edge of two buckets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(8, 16), nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(1, 33, device=tokens.device)
        buckets = (torch.log(positions.float() / 2) / math.log(2.0)).long().clamp(0, 7)
        scores = (tokens + self.table(buckets)).sum(-1) + (1.0 - present.float()) * torch.finfo(torch.float32).min
        output: torch.Tensor = self.last((tokens * scores.softmax(-1)[..., None]).sum(1))
        return output


def test_rounding_moves_neither_positions_nor_masks_of_integers() -> None:
    inputs = (Tensor("tokens", ("batch", 32, 16)), Tensor("present", ("batch", 32), dtype="int64"))
    model = Model("own", "own", inputs=inputs, outputs=(Tensor("scores", ("batch", 4)),))
    rng = np.random.default_rng(0)
    present = np.arange(32) < np.array([[32], [8], [0], [1]])
    given: dict[str, npt.NDArray[Any]] = {
        "tokens": rng.standard_normal((4, 32, 16)).astype(np.float32),
        "present": present.astype(np.int64),
    }
    measurement = noise_of(Buckets(), model, given)
    assert 1e-8 < measurement.fp32.max_error < 1e-5
    assert 1e-4 < measurement.fp16.max_error < 1e-2


class InvertedMask(nn.Module):
    """Attention whose mask is inverted with a 1 that is a weight, as constants of a given graph are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.qkv = nn.Parameter(torch.tensor(1.0), requires_grad=False), nn.Linear(16, 48)

    def forward(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(tokens).chunk(3, -1)
        hidden = (self.one - present.float())[:, None] * torch.finfo(torch.float32).min
        return (q @ k.transpose(1, 2) + hidden).softmax(-1) @ v  # type: ignore[no-any-return]  # a product of tensors


def test_rounding_does_not_move_a_constant_that_inverts_a_mask() -> None:
    inputs = (Tensor("tokens", ("batch", 8, 16)), Tensor("present", ("batch", 8), dtype="int64"))
    model = Model("own", "own", inputs=inputs, outputs=(Tensor("attended", ("batch", 8, 16)),))
    given: dict[str, npt.NDArray[Any]] = {
        "tokens": np.random.default_rng(0).standard_normal((4, 8, 16)).astype(np.float32),
        "present": (np.arange(8) < np.array([[8], [3], [5], [1]])).astype(np.int64),
    }
    measurement = noise_of(InvertedMask(), model, given)
    assert 1e-8 < measurement.fp32.max_error < 1e-5
    assert 1e-4 < measurement.fp16.max_error < 1e-2


class MaskedRows(nn.Module):
    """Attention in which one query may see no key: all its scores are the mask."""

    def __init__(self, mask: float, added: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mask, self.added, self.qkv = mask, added, nn.Linear(8, 24)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(tokens).chunk(3, -1)
        scores = q @ k.transpose(1, 2)
        hidden = torch.arange(6)[:, None] <= torch.arange(6)
        hidden = hidden & (torch.arange(6)[:, None] < 5) if self.mask == -np.inf else hidden
        if self.mask == -np.inf:
            hidden[:, 0] = False
        masked = scores + hidden * self.mask if self.added else scores.masked_fill(hidden, self.mask)
        return masked.softmax(-1) @ v  # type: ignore[no-any-return]  # a product of tensors


@pytest.mark.parametrize(("mask", "added"), [(torch.finfo(torch.float32).min, True), (-1e9, False), (-np.inf, False)])
def test_rounding_does_not_move_masks(mask: float, added: bool) -> None:
    model = Model(
        "own", "own", inputs=(Tensor("tokens", ("batch", 6, 8)),), outputs=(Tensor("attended", ("batch", 6, 8)),)
    )
    inputs = {"tokens": np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)}
    measurement = noise_of(MaskedRows(mask, added), model, inputs)
    assert 1e-8 < measurement.fp32.max_error < 1e-5
    assert 1e-4 < measurement.fp16.max_error < 1e-2


class Peaks(nn.Module):
    """Scores that are the largest of their neighbourhood, as in CenterNet: the rest are zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(image)
        return scores * (scores == nn.functional.max_pool2d(scores, 3, 1, 1))


def test_rounding_does_not_move_a_peak_from_the_largest_of_its_neighbourhood() -> None:
    inputs, outputs = (Tensor("image", ("batch", 3, 16, 16)),), (Tensor("peaks", ("batch", 4, 16, 16)),)
    model = Model("own", "own", inputs=inputs, outputs=outputs)
    given = {"image": np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)}
    measurement = noise_of(Peaks(), model, given)
    assert 1e-8 < measurement.fp32.max_error < 1e-5


def test_noise_in_bf16_is_that_of_three_bits_less(finished: Path, sample: Golden, tmp_path: Path) -> None:
    weights = finished / "load" / "weights.safetensors"
    module, model = eager.load_module(weights), weights_file.definition(weights)
    found = noise.with_bf16(sample.noise, module, model, sample.inputs, sample.reference)
    assert found.remarks == ()
    assert found.noise.bf16
    assert 4 * sample.noise.fp16.rms < found.noise.bf16.rms < 16 * sample.noise.fp16.rms
    assert all(part.bf16 == found.noise.bf16 for part in found.noise.parts)
    assert dataclasses.replace(found.noise, bf16=None, parts=sample.noise.parts) == sample.noise
    golden.write_bf16(tmp_path / "noise.npz", found.noise, {"logits": np.zeros((2, 4, 10))})
    read = golden.with_bf16(sample, tmp_path / "noise.npz")
    assert read.noise == found.noise
    assert read.ties(Precision.BF16)["logits"].shape == (2, 4, 10)
    assert read.ties(Precision.FP16) == sample.ties(Precision.FP16)
    assert "bf16" not in serde.text(sample.noise)


def test_bf16_tolerances_follow_from_its_noise_alone(sample: Golden) -> None:
    assert metrics.tolerances(sample.noise, {}).bf16 is None
    floor = Floor(5e-3, 2e-3)
    parts = tuple(dataclasses.replace(part, bf16=floor) for part in sample.noise.parts)
    limits = metrics.tolerances(dataclasses.replace(sample.noise, bf16=floor, parts=parts), {}).bf16
    assert limits
    assert limits.max_error == pytest.approx(4 * 5e-3)
    assert limits.snr_db == pytest.approx(-20 * math.log10(4 * 2e-3))
    calm = metrics.tolerances(dataclasses.replace(sample.noise, bf16=Floor(0, 0)), {}).bf16
    coarse = metrics.tolerances(dataclasses.replace(sample.noise, bf16=Floor(1, 1)), {}).bf16
    assert calm
    assert coarse
    assert (calm.max_error, coarse.max_error) == (2.0**-6, 0.08)


@pytest.mark.parametrize("narrow", [rounding.FP16, rounding.BF16], ids=["fp16", "bf16"])
def test_random_rounding_gives_one_of_the_two_neighbours(narrow: rounding.NarrowRounding) -> None:
    exact = torch.linspace(0.1, 3.0, 1000)
    nearest, step = narrow.nearest(exact), {"FP16": 2.0**-10, "BF16": 2.0**-7}[narrow.title]
    drawn = torch.stack([narrow.stochastic(seed)(exact) for seed in range(200)])
    assert torch.equal(narrow.nearest(drawn), drawn)
    assert float(((drawn - exact).abs() / exact).max()) <= step
    assert float((drawn.mean(0) - exact).abs().max()) < float((nearest - exact).abs().max())
