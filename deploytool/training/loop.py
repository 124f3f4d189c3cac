"""The training itself: one epoch after the other, each sealed by a checkpoint, and one look at the test set."""

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
    course: TrainingTask, out: Path, watch: Callable[[int, int], None] = lambda done, total: None, resume: bool = True
) -> Iterator[Epoch]:
    """Yields every epoch of the course, first those that an interrupted run has left in `out`.

    `watch(done, total)` hears of every batch of an epoch. Raises BadInput if `out` cannot be used or holds another
    course, and StageFailed if the loss is no number any more.
    """
    _enter(out)
    learner, key = Trainer(course), course.key()
    saved = _left(out, key, course) if resume else None
    history, kept = (saved.history, saved.best) if saved else ((), {})
    if saved:
        learner.module.load_state_dict(saved.module)
        learner.optimizer.load_state_dict(saved.optimizer)
        yield from history
    for number in range(len(history) + 1, course.recipe.epochs + 1):
        begun = time.perf_counter()
        learned, validated = learner.learn(number, watch), learner.score(course.data.validation)
        seconds = round(time.perf_counter() - begun, 3)
        history = (*history, Epoch(number, course.recipe.rate(number), learned, validated, seconds))
        module = _copy(learner.module)
        kept = module if recipe.best(history) is history[-1] else kept
        checkpoint.write(out, Checkpoint(key, history, module, learner.optimizer.state_dict(), kept))
        outputs.write_history(out, history)
        yield history[-1]


def finish(course: TrainingTask, out: Path) -> Results:
    """Tests the best epoch's model, the only look at the test set, and writes the weights and the results."""
    saved = _left(out, course.key(), course)
    if saved is None or len(saved.history) < course.recipe.epochs:
        raise BadInput(f"the training in {out} is not finished", "train first")
    learner, chosen = Trainer(course), recipe.best(saved.history)
    learner.module.load_state_dict(saved.best)
    seconds = round(sum(record.seconds for record in saved.history), 3)
    results = Results(chosen.epoch, chosen.validation, learner.score(course.data.test), seconds)
    outputs.write(out, course, saved.best, results)
    return results


def _enter(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}", "choose another folder with --out") from error


def _left(out: Path, key: str, course: TrainingTask) -> Checkpoint | None:
    saved = checkpoint.read(out)
    remedy = "begin anew with --no-resume, or choose another --out"
    if saved and saved.key != key:
        raise BadInput(f"{out} holds the training of another model, recipe or data", remedy)
    if saved and len(saved.history) > course.recipe.epochs:
        raise BadInput(f"{out} holds {len(saved.history)} epochs already", f"ask for more --epochs, {remedy}")
    return saved


def _copy(module: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
