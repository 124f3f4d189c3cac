"""Branches and loops, whose subgraphs are modules of their node; and sequences and optional values."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch

from deploytool.loading.graph import turns
from deploytool.loading.graph.element_types import Value
from deploytool.loading.graph.op import Op, Operator


def _parts(op: Op, inputs: tuple[Value, ...]) -> tuple[list[Value], list[Value]]:
    """The inputs of a node, and the values that its subgraphs capture."""
    split = len(inputs) - op.captured
    return list(inputs[:split]), list(inputs[split:])


def _if(op: Op, *inputs: Value) -> Value:
    (condition,), captured = _parts(op, inputs)
    return tuple(op.bodies["then_branch" if bool(condition) else "else_branch"]([], captured))


def _loop(op: Op, *inputs: Value) -> Value:
    (limit, condition, *state), captured = _parts(op, inputs)
    most = None if limit is None else int(limit)
    goes_on, gathered = condition is None or bool(condition), list[list[Value]]()
    for turn in count():
        if not goes_on or (most is not None and turn >= most):
            break
        turns.take(op)
        number = torch.tensor(turn, dtype=torch.int64)
        kept, *results = op.bodies["body"]([number, torch.tensor(goes_on), *state], captured)
        goes_on, state = bool(kept), results[: len(state)]
        gathered.append(results[len(state) :])
    scans = len(op.node.output) - len(state)
    if not gathered and scans:
        _, *results = op.bodies["body"]([torch.tensor(0), torch.tensor(True), *state], captured)
        return (*state, *map(_no_rows, results[len(state) :]))
    return (*state, *(torch.stack([each[number] for each in gathered]) for number in range(scans)))


def _no_rows(row: torch.Tensor) -> torch.Tensor:
    """What a loop without turns gathers: no rows, of the shape and type that one turn would give."""
    return row.new_zeros((0, *row.shape))


def _scan(op: Op, *inputs: Value) -> Value:
    values, captured = _parts(op, inputs)
    if op.version < 9:
        raise ValueError("Scan of opset 8 runs over batches of sequences of different lengths, which is not supported")
    scanned = op.integer("num_scan_inputs")
    state, sources = values[:-scanned], values[-scanned:]
    axes = op.integers("scan_input_axes") or [0] * scanned
    backward = op.integers("scan_input_directions") or [0] * scanned
    gathered: list[list[Value]] = []
    length = sources[0].shape[axes[0]]
    for turn in range(length):
        turns.take(op)
        steps = [
            source.select(axis, length - 1 - turn if reverse else turn)
            for source, axis, reverse in zip(sources, axes, backward, strict=True)
        ]
        results = op.bodies["body"]([*state, *steps], captured)
        state = results[: len(state)]
        gathered.append(results[len(state) :])
    if not gathered:
        steps = [_without(source, axis) for source, axis in zip(sources, axes, strict=True)]
        example = op.bodies["body"]([*state, *steps], captured)[len(state) :]
        return (*state, *(rows.narrow(axis, 0, 0) for rows, axis in _stacked(op, [example])))
    return (*state, *(rows for rows, _ in _stacked(op, gathered)))


def _without(source: torch.Tensor, axis: int) -> torch.Tensor:
    """Zeros in the shape of one step of a source that has none."""
    shape = list(source.shape)
    del shape[axis]
    return source.new_zeros(shape)


def _stacked(op: Op, gathered: list[list[Value]]) -> list[tuple[torch.Tensor, int]]:
    """The scan outputs, each along its axis and in its direction, with the axis."""
    scans = len(gathered[0])
    axes = op.integers("scan_output_axes") or [0] * scans
    backward = op.integers("scan_output_directions") or [0] * scans
    results = []
    for number, (axis, reverse) in enumerate(zip(axes, backward, strict=True)):
        rows = [each[number] for each in gathered]
        axis = axis + rows[0].dim() + 1 if axis < 0 else axis
        results.append((torch.stack(rows[::-1] if reverse else rows, axis), axis))
    return results


def _at(op: Op, sequence: list[Any], position: torch.Tensor) -> Any:
    return sequence[int(position)]


def _insert(op: Op, sequence: list[Any], tensor: Any, position: torch.Tensor | None = None) -> list[Any]:
    at = len(sequence) if position is None else int(position)
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], tensor, *sequence[at:]]


def _erase(op: Op, sequence: list[Any], position: torch.Tensor | None = None) -> list[Any]:
    at = range(len(sequence))[-1 if position is None else int(position)]
    return [*sequence[:at], *sequence[at + 1 :]]


def _concat_from_sequence(op: Op, sequence: list[torch.Tensor]) -> torch.Tensor:
    axis = op.integer("axis")
    return torch.stack(sequence, axis) if op.flag("new_axis") else torch.cat(sequence, axis)


def _split_to_sequence(op: Op, x: torch.Tensor, split: torch.Tensor | None = None) -> list[torch.Tensor]:
    axis, keep = op.integer("axis"), op.flag("keepdims", True)
    if split is None:
        pieces = torch.split(x, 1, axis)
        return list(pieces) if keep else [piece.squeeze(axis) for piece in pieces]
    return list(torch.split(x, int(split) if split.dim() == 0 else split.tolist(), axis))


def _map(op: Op, *inputs: Value) -> Value:
    """SequenceMap: the body for each element of the sequences; a tensor stays as it is."""
    values, captured = _parts(op, inputs)
    results = []
    for turn in range(len(values[0])):
        turns.take(op)
        each = [value[turn] if isinstance(value, list) else value for value in values]
        results.append(op.bodies["body"](each, captured))
    return tuple([result[number] for result in results] for number in range(len(op.node.output)))


def _empty(op: Op) -> list[Any]:
    return []


OPERATORS: Mapping[str, Operator] = {
    "ConcatFromSequence": _concat_from_sequence,
    "If": _if,
    "Loop": _loop,
    "Optional": lambda op, value=None: value,
    "OptionalGetElement": lambda op, value: value,
    "OptionalHasElement": lambda op, value=None: torch.tensor(value is not None),
    "Scan": _scan,
    "SequenceAt": _at,
    "SequenceConstruct": lambda op, *values: list(values),
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": lambda op, sequence: torch.tensor(len(sequence), dtype=torch.int64),
    "SequenceMap": _map,
    "SplitToSequence": _split_to_sequence,
}
