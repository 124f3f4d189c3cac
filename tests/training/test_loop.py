"""Tests that a training is reproducible, can be interrupted and resumed anywhere, and uses the test set once."""

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


def run(task: TrainingTask, out: Path) -> list[Epoch]:
    """Trains; returns the epochs without their durations, which differ between runs."""
    return [replace(record, seconds=0.0) for record in loop.train(task, out)]


def read_checkpoint(out: Path) -> checkpoint.Checkpoint:
    saved = checkpoint.read(out)
    assert saved is not None
    return saved


def equal_states(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_training(quick: TrainingTask, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = run(quick, tmp_path / "first")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert run(quick, tmp_path / "again") == first
    assert equal_states(read_checkpoint(tmp_path / "first").module, read_checkpoint(tmp_path / "again").module)
    assert torch.equal(torch.get_rng_state(), before)  # the global random state is unchanged
    assert run(replace(quick, recipe=replace(QUICK, seed=1)), tmp_path / "other") != first


@pytest.mark.integration
@pytest.mark.parametrize("batch", [1, 6, 7, 15, 24], ids=lambda batch: f"in batch {batch} of 24")
def test_a_resumed_training_equals_an_uninterrupted_one(batch: int, quick: TrainingTask, tmp_path: Path) -> None:
    whole = run(quick, tmp_path / "whole")
    calls = 0

    def interrupt(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(loop.train(quick, tmp_path / "interrupted", interrupt))
    torch.manual_seed(batch)  # the resuming process starts with another random state
    assert run(quick, tmp_path / "interrupted") == whole
    uninterrupted, resumed = read_checkpoint(tmp_path / "whole"), read_checkpoint(tmp_path / "interrupted")
    assert equal_states(uninterrupted.module, resumed.module)
    assert equal_states(uninterrupted.best, resumed.best)
    moments = [saved.optimizer["state"][0]["exp_avg_sq"] for saved in (uninterrupted, resumed)]
    assert torch.equal(*moments)


def test_more_epochs_continue_a_finished_training(quick: TrainingTask, tmp_path: Path) -> None:
    short = replace(quick, recipe=replace(QUICK, epochs=2))
    assert run(short, tmp_path / "extended") == run(quick, tmp_path / "whole")[:2]
    run(quick, tmp_path / "extended")
    assert equal_states(read_checkpoint(tmp_path / "extended").module, read_checkpoint(tmp_path / "whole").module)
    with pytest.raises(BadInput, match="already holds 4 epochs"):
        run(short, tmp_path / "extended")


def test_another_task_in_the_same_folder_is_refused_unless_restarted(quick: TrainingTask, tmp_path: Path) -> None:
    run(quick, tmp_path)
    changed = replace(quick, recipe=replace(QUICK, learning_rate=0.02))
    with pytest.raises(BadInput, match="another model, recipe or data"):
        run(changed, tmp_path)
    assert len(list(loop.train(changed, tmp_path, resume=False))) == 4


def test_the_optimizer_uses_the_rate_of_the_epoch(quick: TrainingTask) -> None:
    trainer = Trainer(replace(quick, recipe=Recipe()))
    for epoch, rate in ((1, 0.01), (10, 0.01), (11, 0.005), (50, 0.000625)):
        trainer.train_epoch(epoch, lambda done, total: None)
        assert [group["lr"] for group in trainer.optimizer.param_groups] == [rate]


def test_watch_is_called_after_every_batch(quick: TrainingTask, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    list(loop.train(quick, tmp_path, lambda done, total: calls.append((done, total))))
    assert calls == [(done, 6) for _ in range(4) for done in range(1, 7)]


def test_only_training_images_are_augmented(
    quick: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
    original = augmentation.shift_and_flip

    def spy(pixels: images.Pixels, padding: int, flip: bool, rng: np.random.Generator) -> images.Pixels:
        augmented.extend(pixels)
        return original(pixels, padding, flip, rng)

    monkeypatch.setattr(augmentation, "shift_and_flip", spy)
    run(quick, tmp_path)
    loop.finish(quick, tmp_path)
    assert len(augmented) == 4 * len(quick.data.train)
    assert {pixels.tobytes() for pixels in augmented} == {pixels.tobytes() for pixels in quick.data.train.pixels}


def test_a_score_in_batches_equals_that_of_the_whole_set(quick: TrainingTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploytool.training.trainer._EVALUATION_BATCH", 7)
    trainer, test = Trainer(quick), quick.data.test
    score = trainer.score(test)
    with torch.no_grad():
        logits = trainer.module.eval()(torch.from_numpy(images.normalise(test.pixels, quick.data.preprocessing)))
    labels = torch.from_numpy(test.labels)
    assert score.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert score.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_test_set_is_used_once_and_last(
    quick: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    names = {id(quick.data.validation): "validation", id(quick.data.test): "test"}
    original = Trainer.score

    def spy(trainer: Trainer, dataset: ImageSet) -> Score:
        scored.append(names[id(dataset)])
        return original(trainer, dataset)

    monkeypatch.setattr(Trainer, "score", spy)
    run(quick, tmp_path)
    loop.finish(quick, tmp_path)
    assert scored == ["validation"] * 4 + ["test"]


def test_the_weights_of_the_best_epoch_are_saved(quick: TrainingTask, tmp_path: Path) -> None:
    history = []
    states = []
    for record in loop.train(quick, tmp_path):
        history.append(record)
        states.append(read_checkpoint(tmp_path).module)
    best = max(history, key=lambda record: (record.validation.accuracy, -record.validation.loss))
    assert equal_states(read_checkpoint(tmp_path).best, states[best.epoch - 1])
    assert loop.finish(quick, tmp_path).best_epoch == best.epoch


def test_an_unfinished_training_has_no_results(quick: TrainingTask, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not finished"):
        loop.finish(quick, tmp_path)
    next(iter(loop.train(quick, tmp_path)))
    with pytest.raises(BadInput, match="is not finished"):
        loop.finish(quick, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_training(quick: TrainingTask, tmp_path: Path) -> None:
    diverging = replace(quick, recipe=replace(QUICK, learning_rate=1e30))
    with pytest.raises(StageFailed, match=r"diverged: its loss is (nan|inf)") as error:
        run(diverging, tmp_path)
    assert "--learning-rate" in error.value.remedy
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
