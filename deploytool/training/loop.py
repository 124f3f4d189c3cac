"""Runs a training: epochs with a checkpoint after each, then one evaluation on the test set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from deploytool.errors import BadInput
from deploytool.training import checkpoint, outputs, recipe
from deploytool.training.checkpoint import Checkpoint, State
from deploytool.training.recipe import Epoch, Results
from deploytool.training.task import TrainingTask
from deploytool.training.trainer import Trainer


def train(
    task: TrainingTask, out: Path, watch: Callable[[int, int], None] = lambda done, total: None, resume: bool = True
) -> Iterator[Epoch]:
    """Yields every epoch of the training, first those that an earlier run has completed in `out`.

    `watch(done, total)` is called after every batch of an epoch. Raises BadInput if `out` cannot be used or holds the
    training of another task, and StageFailed if the loss is not finite.
    """
    _make_folder(out)
    trainer, key = Trainer(task), task.key()
    saved = _read_checkpoint(out, key, task) if resume else None
    history, best = (saved.history, saved.best) if saved else ((), {})
    if saved:
        trainer.module.load_state_dict(saved.module)
        trainer.optimizer.load_state_dict(saved.optimizer)
        yield from history
    for number in range(len(history) + 1, task.recipe.epochs + 1):
        start = time.perf_counter()
        trained, validated = trainer.train_epoch(number, watch), trainer.score(task.data.validation)
        seconds = round(time.perf_counter() - start, 3)
        history = (*history, Epoch(number, task.recipe.rate(number), trained, validated, seconds))
        module = _copy(trainer.module)
        best = module if recipe.best(history) is history[-1] else best
        checkpoint.write(out, Checkpoint(key, history, module, trainer.optimizer.state_dict(), best))
        outputs.write_history(out, history)
        yield history[-1]


def finish(task: TrainingTask, out: Path) -> Results:
    """Evaluates the model of the best epoch on the test set, once, and writes the weights and the results."""
    saved = _read_checkpoint(out, task.key(), task)
    if saved is None or len(saved.history) < task.recipe.epochs:
        raise BadInput(f"the training in {out} is not finished", "train first")
    trainer, chosen = Trainer(task), recipe.best(saved.history)
    trainer.module.load_state_dict(saved.best)
    seconds = round(sum(record.seconds for record in saved.history), 3)
    results = Results(chosen.epoch, chosen.validation, trainer.score(task.data.test), seconds)
    outputs.write(out, task, saved.best, results)
    return results


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}", "choose another folder with --out") from error


def _read_checkpoint(out: Path, key: str, task: TrainingTask) -> Checkpoint | None:
    saved = checkpoint.read(out)
    remedy = "start again with --no-resume, or choose another --out"
    if saved and saved.key != key:
        raise BadInput(f"{out} holds the training of another model, recipe or data", remedy)
    if saved and len(saved.history) > task.recipe.epochs:
        raise BadInput(f"{out} already holds {len(saved.history)} epochs", f"set more --epochs, {remedy}")
    return saved


def _copy(module: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
