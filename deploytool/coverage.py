"""Which golden cases show most of a model: each channel of each layer as loud and as low as it gets.

A fault in a channel that no golden case wakes goes unnoticed, so the cases are chosen that wake the most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from deploytool.backends import eager
from deploytool.golden import Arrays
from deploytool.spec import Model

_AT_ONCE = 8  # cases, so that all answers of a batch fit into memory

Floats = npt.NDArray[np.float64]


def listen(module: nn.Module, model: Model, inputs: Arrays) -> tuple[Arrays, Floats]:
    """The answers of the model, and how far each channel goes up and down in each case (cases × extremes, from 0 up).

    A channel is the second axis of what a module without parts of its own gives.
    """
    session = eager.session(module, model)
    extremes: list[torch.Tensor] = []
    hooks = [
        part.register_forward_hook(lambda part, given, output: extremes.extend(_extremes(output)))
        for part in module.modules()
        if not list(part.children())
    ]
    answers, heard = [], []
    for first in range(0, len(next(iter(inputs.values()))), _AT_ONCE):
        answers.append(session(**{name: array[first : first + _AT_ONCE] for name, array in inputs.items()}))
        heard.append(torch.cat(extremes, 1).double().numpy())
        extremes.clear()
    for hook in hooks:
        hook.remove()
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    return joined, np.concatenate(heard)


def _extremes(output: Any) -> Sequence[torch.Tensor]:
    """How far the channels of a batch go up, and down."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or output.dim() < 2:
        return ()
    flat = output.flatten(2) if output.dim() > 2 else output[:, :, None]
    return flat.amax(2).clamp(min=0), (-flat.amin(2)).clamp(min=0)


def choose(extremes: Floats, count: int, first: Sequence[int]) -> list[int]:
    """At most `count` cases that together come nearest to all extremes: each time the one that adds most.

    Those of `first` are taken before any other.
    """
    largest = extremes.max(axis=0)
    parts = extremes[:, largest > 0] / largest[largest > 0]
    reached: Floats = np.zeros(parts.shape[1])
    chosen: list[int] = []
    left = set(first) or set(range(len(parts)))
    while len(chosen) < count and len(chosen) < len(parts):
        candidates = sorted(left)
        gains = np.maximum(parts[candidates], reached).sum(axis=1)
        chosen.append(candidates[int(gains.argmax())])
        reached = np.maximum(reached, parts[chosen[-1]])
        left = left - {chosen[-1]} or set(range(len(parts))) - set(chosen)
    return chosen
