from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import deploytool
from deploytool.backends import eager
from deploytool.data.golden import Arrays
from deploytool.parity import metrics, noise, noise_floor, rounding, ties
from deploytool.parity.metrics import Tolerances
from deploytool.parity.ties import PerturbedRuns, Ties
from deploytool.results.report import Check
from deploytool.spec import Model, Precision, Tensor
from tests.conftest import ROOT
from tests.user_models.discrete_outputs import Labels

LABELS = ("map", "map of floats", "class", "mask", "best", "levels", "boxes", "count")
OWN = ROOT / "tests" / "user_models" / "discrete_outputs.py"


@dataclass(frozen=True)
class LabelModel:
    """A model with one kind of labels: its FP64 answers, perturbed answers, ties and tolerances."""

    reference: Arrays
    sound: dict[bool, list[Arrays]]  # by whether FP16: answers under rounding that was not used to find the ties
    found: Ties
    allowed: Tolerances

    def check(self, got: Arrays, *, half: bool) -> Check:
        known, tolerance = (self.found.fp16, self.allowed.fp16) if half else (self.found.fp32, self.allowed.fp32)
        return metrics.check(got, self.reference, "FP64", tolerance, known)


def labelled(kind: str) -> tuple[Labels, Model]:
    module = Labels(kind).eval().requires_grad_(False)
    names = ("values", "places") if kind == "best" else ("labels",)
    outputs = tuple(Tensor(name, ("batch",)) for name in names)
    return module, Model("labels", "x:y", inputs=(Tensor("image", ("batch", 3, 32, 32)),), outputs=outputs)


def images() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).normal(size=(10, 3, 32, 32)).astype(np.float32)}


@cache
def label_model(kind: str) -> LabelModel:
    (module, model), inputs = labelled(kind), images()
    double = eager.make_session(copy.deepcopy(module).double(), model, double=True)
    reference = double(**inputs)
    measured = noise.measure(module, model, inputs, reference).noise
    chosen = [perturbation.part.output for perturbation in measured.parts if perturbation.part.labels]
    single, half = noise.perturbed_runs(module, model)
    found = ties.find(PerturbedRuns(lambda given: double(**given), single, half), inputs, reference, chosen)
    given = {"image": torch.from_numpy(inputs["image"])}
    sound = {
        False: [run(module, model, given) for run in (noise._case_by_case, noise._channels_last, noise._sequential)],
        True: [noise._run_rounded(module, model, given, rounding.FP16.stochastic(seed)) for seed in range(10, 14)],
    }
    return LabelModel(
        reference, sound, found, metrics.tolerances(noise_floor.tied(measured, found.fp32, found.fp16), {})
    )


def label_outputs(model: LabelModel) -> list[str]:
    return [limit.part.output for limit in model.allowed.fp32.parts if limit.part.labels]


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("half", [False, True])
def test_labels_changed_by_rounding_are_ties(kind: str, half: bool) -> None:
    model = label_model(kind)
    assert label_outputs(model)
    for got in model.sound[half]:
        check = model.check(got, half=half)
        assert check.broken == ()
        assert check.parity.equal is not None
        assert check.parity.equal.wrong == 0


@pytest.mark.parametrize("kind", ["map", "map of floats", "mask"])
def test_labels_changed_by_bf16_rounding_are_ties_and_one_wrong_in_a_hundred_fails(kind: str) -> None:
    (module, model), inputs = labelled(kind), images()
    double = eager.make_session(copy.deepcopy(module).double(), model, double=True)
    reference = double(**inputs)
    measured = noise.measure(module, model, inputs, reference).noise
    measured = noise.with_bf16(measured, module, model, inputs, reference).noise
    names = [perturbation.part.output for perturbation in measured.parts if perturbation.part.labels]
    runs = noise.perturbed_runs(module, model, rounding.BF16)[1]
    known = ties.find_in(Precision.BF16, lambda given: double(**given), runs, inputs, reference, names)
    limits = metrics.tolerances(noise_floor.tied_bf16(measured, known), {}).bf16
    assert limits
    given, changed = {"image": torch.from_numpy(inputs["image"])}, 0.0
    for seed in range(10, 14):
        got = noise._run_rounded(module, model, given, rounding.BF16.stochastic(seed))
        check = metrics.check(got, reference, "FP64", limits, known)
        assert check.broken == ()
        assert check.parity.equal
        changed += 1 - check.parity.equal.share
    assert changed > 0
    labels, chosen = reference[names[-1]].copy(), np.random.default_rng(1).random(reference[names[-1]].shape) < 0.01
    labels[chosen] = ~labels[chosen] if labels.dtype == np.bool_ else labels[chosen] + 3
    check = metrics.check({**reference, names[-1]: labels}, reference, "FP64", limits, known)
    assert "equal" in {figure for each in check.part_checks for figure in each.broken}


def test_rounding_changes_some_labels() -> None:
    equal = [
        label_model(kind).check(label_model(kind).sound[True][0], half=True).parity.equal
        for kind in ("map", "levels", "mask")
    ]
    assert all(each and 0.9 < each.low < each.share < 1 for each in equal)


@pytest.mark.parametrize(("kind", "half"), [(kind, half) for kind in LABELS for half in (False, True)][:-1])
def test_labels_off_by_one_fail(kind: str, half: bool) -> None:
    model, got = label_model(kind), {}
    for name, array in model.reference.items():
        got[name] = array
        if name in label_outputs(model):
            got[name] = (
                ~array if array.dtype == np.bool_ else array + (np.array([0, 1])[:, None] if kind == "boxes" else 1)
            )
    assert "equal" in {figure for each in model.check(got, half=half).part_checks for figure in each.broken}


@pytest.mark.parametrize("kind", ["map", "map of floats", "mask", "best", "levels"])
def test_one_wrong_label_in_a_hundred_fails(kind: str) -> None:
    model = label_model(kind)
    name = label_outputs(model)[-1]
    got, rng = dict(model.reference), np.random.default_rng(1)
    labels = got[name].copy()
    chosen = rng.random(labels.shape) < 0.01
    labels[chosen] = ~labels[chosen] if labels.dtype == np.bool_ else labels[chosen] + (500 if kind == "best" else 3)
    got[name] = labels
    check = model.check(got, half=True)
    assert "equal" in {figure for each in check.part_checks for figure in each.broken}
    assert check.parity.equal is not None
    assert check.parity.equal.wrong


def test_all_ties_changed_at_once_fail() -> None:
    model = label_model("levels")
    got = {"labels": model.found.fp16["labels"][1].astype(np.uint8)}
    check = model.check(got, half=True)
    assert check.parity.equal is not None
    assert (check.parity.equal.wrong, check.broken) == (0, ("equal",))


def test_a_count_has_no_ties() -> None:
    model = label_model("count")
    assert (model.found.fp32["labels"][0] == model.found.fp32["labels"][1]).all()
    got = {"labels": model.reference["labels"].copy()}
    got["labels"][3] += 1
    assert model.check(got, half=False).broken == ("equal",)


def test_without_known_ties_the_share_decides() -> None:
    expected = {"labels": np.zeros((4, 1000), np.int64)}
    tolerance = label_model("map").allowed.fp32
    other = {"labels": expected["labels"].copy()}
    other["labels"][0, 0] = 1
    assert metrics.check(expected, expected, "corner", tolerance).broken == ()
    assert metrics.check(other, expected, "corner", tolerance).broken == ("equal",)


@pytest.mark.integration
def test_a_map_of_labels_passes_the_whole_pipeline(tmp_path: Path) -> None:
    run = deploytool.export(f"{OWN}:Labels", inputs=[Tensor("image", ("batch", 3, 32, 32))], quick=True, out=tmp_path)
    assert run.error is None
    fp16 = [comparison for comparison in run.report.comparisons if comparison.stage == "fp16"]
    equal = [check.parity.equal for comparison in fp16 for check in comparison.checks if check.parity.equal]
    assert any(0.99 < each.share < 1 for each in equal)
    assert all(each.wrong in (0, None) for each in equal)
