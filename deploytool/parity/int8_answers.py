"""What proves an INT8 graph on a device: its answers as quantised, and how far sound kernels may move them.

INT8 kernels sum integers exactly, as the emulation does, and scale the sums in floating point. Where a value lies next
to a tie between two integers, its last bits decide, and that step moves further integers in later layers. The noise is
therefore measured: the scale of every activation is moved by more than kernels round, at random, and the graph answers
again. The tolerance is a multiple of it, as that of FP16 is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from deploytool.backends import int8_emulation, onnxruntime
from deploytool.data.golden import Arrays, Floor, Golden
from deploytool.parity import detection_rows, metrics, noise_floor
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.results.output_parts import OutputPart
from deploytool.results.report import Limits
from deploytool.rewrites.graph import weights
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.spec import Precision

_DRAWS, _RUNS = 3, 24  # fewest draws, and fewest runs of a case: ties are rare
_MOVED = 2.0**-20  # of a scale: a few times what FP32 rounds the product of a sum and its scale by


def record(graph: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """The answers of an INT8 graph to these inputs, as quantised."""
    return run(int8_emulation.emulate(graph), inputs)


def run(graph: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """The answers of an emulated graph, node by node."""
    parts = weights.session_parts(graph)
    with onnxruntime.start(parts.message, optimise=False, weights=parts.arrays, folder=parts.folder) as session:
        return replay(session, inputs, SMALL_BATCHES)


def limits(graph: onnx.ModelProto, answers: Arrays, sample: Golden) -> Limits:
    """How far sound kernels may be from `answers`, those of the graph to the golden cases."""
    runs = [record(_moved(graph, seed), sample.inputs) for seed in seeds(sample)]
    return limits_of(runs, answers, sample, Precision.INT8)


def seeds(sample: Golden, runs: int = _RUNS) -> range:
    """The seeds by which the tolerance for the cases of a sample is measured, in at least so many runs of a case."""
    return range(max(_DRAWS, math.ceil(runs / len(next(iter(sample.inputs.values()))))))


def limits_of(
    runs: Sequence[Arrays],
    answers: Arrays,
    sample: Golden,
    precision: Precision,
    floor: Callable[[Sequence[Arrays], Arrays, OutputPart], Floor] = noise_floor.floor,
) -> Limits:
    """How far sound kernels may be from `answers`, from those of `runs`, which were moved as kernels may move them.

    `floor` gives the noise of a part that is no labels.
    """
    rows = sample.noise.rows
    aligned = [detection_rows.aligned_by_most(run, answers, rows) for run in runs]
    parts = [each.part for each in sample.noise.parts]
    floors = [
        (part, _of_labels(aligned, answers, part) if part.labels else floor(aligned, answers, part)) for part in parts
    ]
    swapped = detection_rows.swapped(runs, answers, rows) if rows else 0.0
    return metrics.int8_limits(floors, rows, swapped, precision)


def _of_labels(runs: Sequence[Arrays], answers: Arrays, part: OutputPart) -> Floor:
    """The share of the labels that differ from the answers, as both figures."""
    equal = [metrics.compare(run, answers, parts=[part]).equal for run in runs]
    share = max(1 - each.share for each in equal if each)
    return Floor(share, share)


def _moved(graph: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy in which every activation is quantised by a scale that is a little larger or smaller."""
    rng, editable = np.random.default_rng(seed), EditableGraph(graph)
    moved = onnx.ModelProto()
    moved.CopyFrom(graph)
    for node in moved.graph.node:
        scale = editable.constant(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is None or editable.constant(node.input[0]) is not None:
            continue
        name = editable.unique_name(f"{node.output[0]}/moved_scale")
        values = scale * scale.dtype.type(1 + rng.choice((-_MOVED, _MOVED)))
        moved.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        node.input[1] = name
    return moved
