"""Probes: tensors on the way through a graph that must be right too, and what they should be on the first cases."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from deploytool.backends.session import Session
from deploytool.data.golden import Arrays
from deploytool.errors import BadInput
from deploytool.host import disk, scratch
from deploytool.parity import metrics
from deploytool.parity.replay import replay
from deploytool.results.report import Check, Tolerance
from deploytool.spec import Range

_CASES = 2  # golden cases that a probe is kept for: a tensor on the way may be larger than the images themselves
_USUAL = Range()


@dataclass(frozen=True)
class Probes:
    """The expected values of each tensor, (cases, ...) for the first golden cases."""

    values: Arrays


def write(path: Path, probes: Probes) -> None:
    """Writes the probes as one .npz file, the same bytes for the same probes."""
    names = np.array(json.dumps(list(probes.values)))
    with disk.writing(path):
        np.savez(path, names, *probes.values.values(), allow_pickle=False)


def read(path: Path) -> Probes:
    """The probes of a file; raises BadInput if the file is something else."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = json.loads(str(file["arr_0"]))
            return Probes({name: file[f"arr_{number}"] for number, name in enumerate(names, 1)})
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} holds no probes: {error}", "export again to make new ones") from error


def first_cases(inputs: Arrays) -> Arrays:
    """The golden cases that probes are kept for."""
    return {name: array[:_CASES] for name, array in inputs.items()}


def answers(
    graph: Path,
    tensors: Collection[str],
    start: Callable[[Path], AbstractContextManager[Session]],
    inputs: Arrays,
    batch: Range = _USUAL,
) -> Arrays:
    """What these tensors of the graph are, besides its outputs; those it does not have are left out.

    A copy of the graph is run: the one that ships keeps the outputs it has. Nothing is run if it has none of them.
    """
    with _tapped(graph, tensors) as copy:
        if copy is None:
            return {}
        with start(copy) as session:
            return replay(session, inputs, batch)


@contextmanager
def _tapped(graph: Path, tensors: Collection[str]) -> Iterator[Path | None]:
    """A copy of the graph, gone afterwards, that gives these tensors too; None if it has none of them."""
    model = onnx.load(graph)
    made = {name for node in model.graph.node for name in node.output}
    wanted = [name for name in tensors if name in made - {output.name for output in model.graph.output}]
    if not wanted:
        yield None
        return
    types = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(types.get(name, onnx.ValueInfoProto(name=name)) for name in wanted)
    with scratch.folder() as folder:
        copy = folder / graph.name
        disk.write(copy, model.SerializeToString())
        yield copy


def checks(probes: Probes, got: Arrays, tolerance: Tolerance) -> tuple[Check, ...]:
    """One check for each probe that is among the answers to its cases or more."""
    return tuple(
        metrics.check({name: got[name][: len(values)]}, {name: values}, f"probe {name}", tolerance)
        for name, values in probes.values.items()
        if name in got
    )
