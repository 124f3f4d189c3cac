"""Outputs that cannot be what the task says are refused with a remedy, and shown as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.spec import Task
from deploytool.tasks import fit

SCORES = {"logits": np.linspace(0.1, 0.9, 20, dtype=np.float32).reshape(2, 10)}
MAPS = {"logits": np.linspace(0.1, 0.9, 96, dtype=np.float32).reshape(2, 3, 4, 4)}
HEAD = {"output0": np.linspace(0.1, 0.9, 1512, dtype=np.float32).reshape(2, 9, 84)}
FITTING: Mapping[str, tuple[fit.Arrays, set[Task]]] = {
    "scores": (SCORES, {Task.CLASSIFY, Task.EMBED}),
    "maps": (MAPS, {Task.SEGMENT}),
    "head": (HEAD, {Task.DETECT, Task.TOKENS}),  # scores of tokens have three axes too
}


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("task", Task)
def test_outputs_are_those_of_some_tasks_alone(name: str, task: Task) -> None:
    outputs, tasks = FITTING[name]
    fits = task in tasks
    assert fit.holds(task, outputs) is fits
    if fits:
        fit.check(task, outputs)
        assert fit.shown(task, outputs) is task
        return
    with pytest.raises(BadInput) as refused:
        fit.check(task, outputs)
    assert str(refused.value).startswith(f"the task is {task}, but ")
    assert refused.value.remedy.startswith("state another --task, or select")
    assert fit.shown(task, outputs) is (task if task in (Task.CLASSIFY, Task.EMBED) else None)


def test_a_map_of_scores_tells_its_classes() -> None:
    assert fit.map_classes(MAPS) == 3
    assert fit.map_classes({"classes": np.zeros((2, 4, 4), np.int64)}) is None
    assert fit.map_classes({"classes": np.zeros((2, 1, 4, 4), np.int64)}) is None
    assert fit.shown(None, MAPS) is None
