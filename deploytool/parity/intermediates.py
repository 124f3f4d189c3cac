"""Probes: intermediate tensors of a graph that are compared too, with their expected values on the first cases."""

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
from deploytool.rewrites.graph import storage, weights
from deploytool.spec import Range

_CASES = 2  # golden cases with probe values: an intermediate tensor may be larger than the inputs
_ANY_BATCH = Range()


@dataclass(frozen=True)
class Probes:
    """The expected values of each tensor, (cases, ...) for the first golden cases."""

    values: Arrays


def write(path: Path, probes: Probes) -> None:
    """Writes the probes as one .npz file; equal probes give equal bytes."""
    names = np.array(json.dumps(list(probes.values)))
    with disk.writing(path):
        np.savez(path, names, *probes.values.values(), allow_pickle=False)


def read(path: Path) -> Probes:
    """The probes in a file; raises BadInput if it holds no probes."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            names = json.loads(str(arrays["arr_0"]))
            return Probes({name: arrays[f"arr_{number}"] for number, name in enumerate(names, 1)})
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} does not contain probes: {error}", "export again to record new ones") from error


def first_cases(inputs: Arrays) -> Arrays:
    """The golden cases for which probe values are stored."""
    return {name: array[:_CASES] for name, array in inputs.items()}


def answers(
    graph: Path,
    tensors: Collection[str],
    start: Callable[[Path], AbstractContextManager[Session]],
    inputs: Arrays,
    batch: Range = _ANY_BATCH,
) -> Arrays:
    """The values of these tensors of a graph and of its outputs; tensors that the graph does not have are left out.

    A copy of the graph with further outputs is run: the graph itself stays unchanged. Without any of the tensors,
    nothing is run.
    """
    with _with_outputs(graph, tensors) as copy:
        if copy is None:
            return {}
        with start(copy) as session:
            return replay(session, inputs, batch)


@contextmanager
def _with_outputs(graph: Path, tensors: Collection[str]) -> Iterator[Path | None]:
    """A temporary copy of the graph with these tensors as further outputs; None if it has none of them."""
    model = storage.load(graph)
    produced = {name for node in model.graph.node for name in node.output}
    wanted = [name for name in tensors if name in produced - {output.name for output in model.graph.output}]
    if not wanted:
        yield None
        return
    types = {value.name: value for value in weights.infer_shapes(model).graph.value_info}
    model.graph.output.extend(types.get(name, onnx.ValueInfoProto(name=name)) for name in wanted)
    with scratch.folder() as folder:
        copy = folder / graph.name
        storage.save(model, copy)
        yield copy


def checks(probes: Probes, got: Arrays, tolerance: Tolerance) -> tuple[Check, ...]:
    """One check for each probe among the answers; these may have more cases than the probe."""
    return tuple(
        metrics.check({name: got[name][: len(values)]}, {name: values}, f"probe {name}", tolerance)
        for name, values in probes.values.items()
        if name in got
    )
