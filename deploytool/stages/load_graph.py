"""Checks a given ONNX file, tries it in a child process, and stores its weights with the definition of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager, int8_saturation
from deploytool.errors import BadInput
from deploytool.host import disk, machine, memory_estimate
from deploytool.loading import output_task
from deploytool.loading.graph import definition, source, structure, trial
from deploytool.loading.module import build, double_precision
from deploytool.loading.stage_inputs import StageInputs
from deploytool.model_checks import probe
from deploytool.results.artifact import Notes
from deploytool.rewrites.graph import storage, sum_scales
from deploytool.spec import GivenTensor, Job, Model, Options

_DRAWS = 3  # sets of inputs that the file is tried with, to find outputs whose size depends on the data


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the initialisers of the graph together with the model definition, whose outputs a run shows.

    Raises BadInput for a file that ONNX Runtime cannot run or runs wrongly, or whose outputs no batch can have, and
    StageFailed for a node that cannot be computed in FP64.
    """
    options, model = job.options, job.model
    sum_scales.check(storage.load(Path(model.factory)))
    with torch.no_grad():
        count = options.fixed_batch or 2
        batches = [probe.draw_cases(model, options, count, seed=seed) for seed in range(_DRAWS)]
        model = _with_outputs(model, trial.run(model, batches), options)
        module = build.build(model).module
        size = _bytes(module)
        memory_estimate.check(size, job)
        disk.check(out.parent, size, out.name)
        is_double = model.given is not None and model.given.double
        state = source.exact_state(model) if is_double else dict(module.state_dict())
        _check_weights(state, model)
        result = probe.examine(model, state, options)
    memory_estimate.check_answers(result.model, options)
    settled, told = output_task.settle(result.model)
    eager.save(state, settled, out)
    return {
        "weights": f"the initialisers of {Path(model.factory).name}",
        "parameters": sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point()),
        "model": serde.encode(settled),
        "remarks": [*_remarks(settled), *_saturation_remarks(settled), *result.remarks, *told],
    }


def _with_outputs(model: Model, runs: Sequence[Sequence[tuple[int, ...]]], options: Options) -> Model:
    """The model with the axis of the batch in each output, which is known for a single case only after a run.

    `runs` are the shapes of the outputs in each run. Raises BadInput for an output whose size depends on the data.
    """
    assert model.given is not None
    names, places = definition.output_names(model), []
    varying = [
        name
        for name, *shapes in zip(names, *runs, strict=True)
        if name in (options.outputs or names) and len(set(shapes)) > 1
    ]
    for name, place, *shapes in zip(names, model.given.outputs, *runs, strict=True):
        if name in varying:
            raise _varying(model, place.name, [other for other in names if other not in varying])
        places.append(_place(place, shapes[0], options))
    return replace(model, given=replace(model.given, outputs=tuple(places)))


def _varying(model: Model, output: str, others: Sequence[str]) -> BadInput:
    """The error for an output whose size depends on the data, with the node that selects; `others` have fixed sizes."""
    graph = storage.load_structure(Path(model.factory)).graph
    node = structure.size_source(graph, output)
    cause = f": the {structure.label(node)} selects" if node else ""
    remedy = f"select others: --output {','.join(others)}" if others else "export the model without that selection"
    return BadInput(f"the size of the output {output} of {model.factory} depends on the data{cause}", remedy)


def _place(place: GivenTensor, shape: tuple[int, ...], options: Options) -> GivenTensor:
    """Where the batch is in an output; one of a single case without an axis of 1 in its place gets such an axis."""
    axis = place.batch_axis
    if options.fixed_batch != 1 or (axis is not None and axis < len(shape) and shape[axis] == 1):
        return place
    return replace(place, batch_axis=None)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _check_weights(state: Mapping[str, Any], model: Model) -> None:
    """Raises BadInput for a weight that is NaN: every answer would be."""
    bad = next((name for name, tensor in state.items() if tensor.is_floating_point() and tensor.isnan().any()), None)
    if bad is not None:
        raise BadInput(f"the weight {bad} of {model.factory} contains NaN", "save the model again, after its training")


def _saturation_remarks(model: Model) -> list[str]:
    """A remark on quantised layers that other programs may compute wrongly on some processors."""
    layers = int8_saturation.saturating_layers(storage.load(Path(model.factory)))
    if not layers:
        return []
    named = f"{len(layers)} quantised layers, such as {layers[0]}," if len(layers) > 1 else layers[0]
    cause = "can saturate on x86 processors without VNNI: INT8 weights of 8 bits"
    with_vnni, without = (
        "this processor has VNNI",
        "ONNX Runtime runs with session.x64quantprecision=1, which prevents it",
    )
    return [f"{named} {cause}; here {without if machine.saturates_int8() else with_vnni}"]


def _remarks(model: Model) -> list[str]:
    """One line each about tensors with another name or place than in the file."""
    assert model.given is not None
    names = [tensor.name for tensor in model.inputs] + definition.output_names(model)
    pairs = list(zip(names, (*model.given.inputs, *model.given.outputs), strict=True))
    renamed = [f"{place.name!r} is {name}" for name, place in pairs if name != place.name]
    without = [name for name, place in pairs if place.batch_axis is None]
    moved = [f"{name} (axis {place.batch_axis})" for name, place in pairs if place.batch_axis]
    batch = model.given.batch
    assumed = [f"the first dimension of {model.name}, {batch}, is taken for its batch; --batch 1 takes it as one case"]
    remarks = assumed if batch is not None and batch > 1 else []
    if model.given.half:
        what = "its weights are taken as FP32, and its inputs and outputs become FP32"
        remarks.append(f"{model.name} computes in FP16: {what}; --io fp16 keeps them in FP16 in the FP16 graph")
    if model.given.double:
        remarks.append(double_precision.REMARK.format(model.name))
    remarks += [f"names are changed to unique ones that all runtimes accept: {', '.join(renamed)}"] if renamed else []
    if without:
        what = f"{', '.join(without)} without a batch axis {'gets' if len(without) == 1 else 'get'} a leading axis of 1"
        remarks.append(f"{model.name} takes one case at a time: {what}")
    if moved:
        remarks.append(f"the batch becomes the first axis of {', '.join(moved)}")
    return remarks
