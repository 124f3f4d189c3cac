from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from deploytool.data.golden import Arrays, Floor, Noise
from deploytool.parity import metrics, output_scales
from deploytool.parity.noise_floor import noise
from deploytool.results.output_parts import OutputPart

Floats = npt.NDArray[np.float64]


def values(sizes: list[int], scales: list[float], cases: int = 12, places: int = 20, seed: int = 0) -> Floats:
    """(cases, channels, positions): channels in blocks, each block with its own scale."""
    rng = np.random.default_rng(seed)
    blocks = [
        rng.normal(rng.normal(size=(1, size, 1)), 0.5, (cases, size, places)) * scale
        for size, scale in zip(sizes, scales, strict=True)
    ]
    return np.concatenate(blocks, axis=1)


def parts(exact: Floats, moved: Floats | None = None) -> tuple[OutputPart, ...]:
    """The parts of an output whose rounding errors are relative to each value, or `moved`."""
    rng = np.random.default_rng(1)
    step = np.abs(exact) * 1e-7 if moved is None else moved
    with np.errstate(invalid="ignore"):
        drawn = [{"y": exact + np.nan_to_num(step * rng.normal(size=exact.shape))} for _ in range(3)]
    return output_scales.find({"y": exact}, drawn, {"y": exact})


def zero_noise(exact: Floats) -> Noise:
    """The noise of an output that rounding does not change."""
    answers: Arrays = {"y": exact}
    return noise([answers], [answers], answers, [answers], answers, Floor(1.0, 1.0))


def names(found: tuple[OutputPart, ...]) -> set[str]:
    return {str(part) for part in found}


@pytest.mark.parametrize("cases", [4, 12])
@pytest.mark.parametrize("ratio", [1e2, 1e3, 1e4, 1e6])
@pytest.mark.parametrize("sizes", [[4, 6], [4, 81], [2, 3], [4, 1], [8, 8, 8], [4, 1, 80], [1, 4], [4, 1, 10]])
def test_blocks_of_channels_with_different_scales_are_parts(sizes: list[int], ratio: float, cases: int) -> None:
    ends = np.cumsum([0, *sizes])
    exact = values(sizes, [ratio, 1.0, 1 / ratio][: len(sizes)], cases)
    spans = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in itertools.pairwise(ends)]
    assert names(parts(exact)) == {f"y[:, {span}]" for span in spans}
    assert names(parts(exact.transpose(0, 2, 1))) == {f"y[:, :, {span}]" for span in spans}
    image = exact.reshape(cases, -1, 4, 5)
    assert names(parts(image)) == {f"y[:, {span}]" for span in spans}
    assert names(parts(image.transpose(0, 2, 3, 1))) == {f"y[:, :, :, {span}]" for span in spans}


@pytest.mark.parametrize("ratio", [1e3, 1e6])
def test_a_vector_has_parts(ratio: float) -> None:
    assert names(parts(values([4, 10], [ratio, 1.0], places=1)[:, :, 0])) == {"y[:, 0:4]", "y[:, 4:14]"}


@pytest.mark.parametrize("cases", [4, 12])
@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_classes_that_are_small_by_chance_are_no_part(classes: int, cases: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(1, classes)) + 1e-2 * rng.normal(size=(cases, classes))
    logits[:, rng.integers(classes)] *= 1e-4
    assert names(parts(logits, np.full_like(logits, 1e-7))) == {"y"}


@pytest.mark.parametrize("seed", range(5))
def test_channels_after_a_rarely_active_relu_are_no_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(rng.uniform(-4, 1, (1, 64, 1)), 1.0, (12, 64, 49)), 0.0)
    assert names(parts(maps, np.where(maps > 0, 1e-7, 0.0))) == {"y"}


@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_probabilities_of_one_softmax_are_one_part(classes: int) -> None:
    logits = np.random.default_rng(0).normal(size=(12, classes)) + 6 * np.random.default_rng(1).normal(size=classes)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert names(parts(shares)) == {"y"}


@pytest.mark.parametrize("mark", [-1e4, -1e9, -65504.0, float(np.finfo(np.float32).min), 1e9])
def test_mask_values_are_marks_and_not_a_part(mark: float) -> None:
    exact = values([4, 6], [100.0, 0.1])
    exact[:, :4][exact[:, :4] < 0] = mark
    found = parts(exact)
    assert names(found) == {"y[:, 0:4]", "y[:, 4:10]"}
    assert {part.marks for part in found} == {(mark,)}


def test_an_added_mask_leaves_nearly_equal_marks() -> None:
    exact = values([10], [3.0])
    exact[exact < 0] -= 1e9
    (part,) = parts(exact)
    assert part.marks[0] == pytest.approx(-1e9)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e9])
def test_large_amounts_are_no_marks(scale: float) -> None:
    assert [part.marks for part in parts(values([6], [scale]))] == [()]


def test_a_channel_of_classes_beside_boxes_holds_labels() -> None:
    exact = values([4, 1], [100.0, 0.1])
    classes = np.random.default_rng(0).integers(0, 80, (12, 1, 20)).astype(np.float64)
    found = parts(np.concatenate([exact, classes], axis=1))
    assert {str(part): part.labels for part in found} == {"y[:, 0:4]": False, "y[:, 4]": False, "y[:, 5]": True}


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integers_are_labels(dtype: type) -> None:
    answers: Arrays = {"y": np.ones((3, 4), dtype)}
    assert output_scales.find(answers, [answers], answers) == (OutputPart("y", labels=True),)


def test_every_part_is_checked_by_its_own_noise() -> None:
    exact = values([4, 6], [1000.0, 0.5])
    rng = np.random.default_rng(3)

    def perturbed(by: float) -> dict[str, Floats]:
        return {"y": exact * (1 + by * rng.normal(size=exact.shape))}

    found = noise([perturbed(1e-7)], [perturbed(5e-4)], {"y": exact}, [{"y": exact}], {"y": exact}, Floor(1.0, 1.0))
    allowed = metrics.tolerances(found, {})
    assert len(allowed.fp32.parts) == 2
    assert not metrics.check(perturbed(1e-7), {"y": exact}, "source", allowed.fp32).broken
    wrong = exact.copy()
    wrong[0, 7, 3] += 0.1
    check = metrics.check({"y": wrong}, {"y": exact}, "source", allowed.fp32)
    assert (check.part, check.broken[0]) == ("y[:, 4:10]", "max_error")
    assert [bool(part.broken) for part in check.parts] == [True, False]
    assert check.parity.max_error > 0.05
    assert metrics.compare({"y": wrong}, {"y": exact}).max_error < 1e-4  # with a single scale the error would pass


@pytest.mark.parametrize(
    ("mark", "sound"), [(-1e9, [-1e9, -np.inf, -65504.0, -1.001e9]), (-np.inf, [-np.inf, -65504.0])]
)
def test_marks_are_compared_by_position(mark: float, sound: list[float]) -> None:
    exact = values([6], [1.0])
    exact[:, :, ::3] = mark
    allowed = metrics.tolerances(zero_noise(exact), {}).fp16
    for other in sound:
        got = np.where(exact == mark, other, exact)
        assert not metrics.check({"y": got}, {"y": exact}, "source", allowed).broken
    for wrong in (0.0, 1.0, -mark, np.nan, mark / 100 if np.isfinite(mark) else -100.0):
        got = exact.copy()
        got[2, 3, 3] = wrong
        assert "invalid" in metrics.check({"y": got}, {"y": exact}, "source", allowed).broken
    got = exact.copy()
    got[2, 3, 4] = mark
    assert metrics.check({"y": got}, {"y": exact}, "source", allowed).broken


def test_an_output_of_another_size_is_checked_as_one_part() -> None:
    exact = values([4, 6], [1000.0, 0.5])
    allowed = metrics.tolerances(zero_noise(exact), {}).fp32
    longer = {"y": np.concatenate([exact, exact], axis=1)}
    assert metrics.check(longer, longer, "corner", allowed).parts == ()
    wider = {"y": np.concatenate([exact, exact], axis=2)}
    assert len(metrics.check(wider, wider, "corner", allowed).parts) == 2


def test_what_is_left_of_a_closed_gate_is_no_part() -> None:
    """A runtime that flushes 1e-14 to zero is not wrong by 100 % of it."""
    exact = values([1, 127], [1e-14, 1.0], 4)
    assert names(parts(exact)) == {"y"}
    assert names(parts(values([1, 127], [1e-10, 1.0], 4))) == {"y[:, 0]", "y[:, 1:128]"}
