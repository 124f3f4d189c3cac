"""How often a graph decides otherwise than its source on cases without labels, from the outputs of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deploytool.data import batches
from deploytool.data.golden import Arrays
from deploytool.loading import output_task
from deploytool.metrics import answers, decisions
from deploytool.spec import Model


def on(cases: Sequence[Arrays], model: Model) -> Callable[[Sequence[Arrays], Sequence[Arrays]], float]:
    """A function of the outputs of two graphs for each of these cases: the share of decisions that differ, 0 to 1."""
    task = output_task.decides(model)
    single = [batch for case in cases for batch in batches.of_cases(case, model)]

    def decided(outputs: Sequence[Arrays]) -> list[Any]:
        pairs = zip(outputs, single, strict=True)
        return [answer for each, batch in pairs for answer in answers.read(task, model, each, batch)]

    def disagreement(got: Sequence[Arrays], expected: Sequence[Arrays]) -> float:
        return 1 - float(decisions.agreement(task, decided(got), decided(expected)).mean())

    return disagreement
