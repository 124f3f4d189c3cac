"""A training can be interrupted anywhere and loses nothing, and looks at the test set once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from deploytool.data import images
from deploytool.errors import BadInput, StageFailed
from deploytool.training import augmentation, checkpoint, loop
from deploytool.training.augmentation import ImageSet
from deploytool.training.recipe import Epoch, Recipe, Score
from deploytool.training.task import TrainingTask
from deploytool.training.trainer import Trainer
from tests.training.conftest import QUICK


def run(lesson: TrainingTask, out: Path) -> list[Epoch]:
    """The epochs without their seconds, which no two runs share."""
    return [replace(record, seconds=0.0) for record in loop.train(lesson, out)]


def left(out: Path) -> checkpoint.Checkpoint:
    saved = checkpoint.read(out)
    assert saved is not None
    return saved


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_training(quick: TrainingTask, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = run(quick, tmp_path / "first")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert run(quick, tmp_path / "again") == first
    assert same(left(tmp_path / "first").module, left(tmp_path / "again").module)
    assert torch.equal(torch.get_rng_state(), before)  # torch's own dice were not touched
    assert run(replace(quick, recipe=replace(QUICK, seed=1)), tmp_path / "other") != first


@pytest.mark.parametrize("batch", [1, 6, 7, 15, 24], ids=lambda batch: f"in batch {batch} of 24")
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    batch: int, quick: TrainingTask, tmp_path: Path
) -> None:
    whole = run(quick, tmp_path / "whole")
    seen = 0

    def interrupt(done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(loop.train(quick, tmp_path / "broken", interrupt))
    torch.manual_seed(batch)  # the process that goes on begins with other dice
    assert run(quick, tmp_path / "broken") == whole
    one, other = left(tmp_path / "whole"), left(tmp_path / "broken")
    assert same(one.module, other.module)
    assert same(one.best, other.best)
    moments = [saved.optimizer["state"][0]["exp_avg_sq"] for saved in (one, other)]
    assert torch.equal(*moments)


def test_more_epochs_continue_a_finished_training(quick: TrainingTask, tmp_path: Path) -> None:
    short = replace(quick, recipe=replace(QUICK, epochs=2))
    assert run(short, tmp_path / "grown") == run(quick, tmp_path / "whole")[:2]
    run(quick, tmp_path / "grown")
    assert same(left(tmp_path / "grown").module, left(tmp_path / "whole").module)
    with pytest.raises(BadInput, match="holds 4 epochs already"):
        run(short, tmp_path / "grown")


def test_another_course_in_the_same_folder_is_refused_or_begun_anew(quick: TrainingTask, tmp_path: Path) -> None:
    run(quick, tmp_path)
    other = replace(quick, recipe=replace(QUICK, learning_rate=0.02))
    with pytest.raises(BadInput, match="another model, recipe or data"):
        run(other, tmp_path)
    assert len(list(loop.train(other, tmp_path, resume=False))) == 4


def test_the_optimizer_is_given_the_rate_of_the_epoch(quick: TrainingTask) -> None:
    learner = Trainer(replace(quick, recipe=Recipe()))
    for epoch, rate in ((1, 0.01), (10, 0.01), (11, 0.005), (50, 0.000625)):
        learner.learn(epoch, lambda done, total: None)
        assert [group["lr"] for group in learner.optimizer.param_groups] == [rate]


def test_every_batch_is_told_to_the_watcher(quick: TrainingTask, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    list(loop.train(quick, tmp_path, lambda done, total: told.append((done, total))))
    assert told == [(done, 6) for _ in range(4) for done in range(1, 7)]


def test_only_what_is_learned_from_is_augmented(
    quick: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
    real = augmentation.shift_and_flip

    def spy(pixels: images.Pixels, padding: int, flip: bool, rng: np.random.Generator) -> images.Pixels:
        given.extend(pixels)
        return real(pixels, padding, flip, rng)

    monkeypatch.setattr(augmentation, "shift_and_flip", spy)
    run(quick, tmp_path)
    loop.finish(quick, tmp_path)
    assert len(given) == 4 * len(quick.data.train)
    assert {one.tobytes() for one in given} == {one.tobytes() for one in quick.data.train.pixels}


def test_a_score_is_that_of_the_whole_set_at_once(quick: TrainingTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploytool.training.trainer._AT_ONCE", 7)
    learner, test = Trainer(quick), quick.data.test
    got = learner.score(test)
    with torch.no_grad():
        logits = learner.module.eval()(torch.from_numpy(images.normalise(test.pixels, quick.data.preprocessing)))
    labels = torch.from_numpy(test.labels)
    assert got.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert got.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_test_set_is_looked_at_once_and_last(
    quick: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    names = {id(quick.data.validation): "validation", id(quick.data.test): "test"}
    real = Trainer.score

    def spy(learner: Trainer, given: ImageSet) -> Score:
        looked.append(names[id(given)])
        return real(learner, given)

    monkeypatch.setattr(Trainer, "score", spy)
    run(quick, tmp_path)
    loop.finish(quick, tmp_path)
    assert looked == ["validation"] * 4 + ["test"]


def test_the_best_epochs_weights_are_kept(quick: TrainingTask, tmp_path: Path) -> None:
    history = []
    states = []
    for record in loop.train(quick, tmp_path):
        history.append(record)
        states.append(left(tmp_path).module)
    chosen = max(history, key=lambda record: (record.validation.accuracy, -record.validation.loss))
    assert same(left(tmp_path).best, states[chosen.epoch - 1])
    assert loop.finish(quick, tmp_path).best_epoch == chosen.epoch


def test_an_unfinished_training_has_no_result(quick: TrainingTask, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not finished"):
        loop.finish(quick, tmp_path)
    next(iter(loop.train(quick, tmp_path)))
    with pytest.raises(BadInput, match="is not finished"):
        loop.finish(quick, tmp_path)


def test_a_loss_that_is_no_number_stops_the_training(quick: TrainingTask, tmp_path: Path) -> None:
    wild = replace(quick, recipe=replace(QUICK, learning_rate=1e30))
    with pytest.raises(StageFailed, match=r"diverged: its loss is (nan|inf)") as stop:
        run(wild, tmp_path)
    assert "--learning-rate" in stop.value.remedy
    assert checkpoint.read(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_refused(quick: TrainingTask, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write to"):
        run(quick, tmp_path / "file")


def test_a_definition_without_classes_is_refused(quick: TrainingTask, tmp_path: Path) -> None:
    (tmp_path / "fixed.py").write_text("from torch import nn\ndef fixed(): return nn.Identity()\n")
    fixed = replace(quick, model=replace(quick.model, factory=f"{tmp_path / 'fixed.py'}:fixed"))
    with pytest.raises(BadInput, match="unexpected keyword argument 'classes'"):
        run(fixed, tmp_path / "out")
