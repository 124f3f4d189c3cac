"""Builds the model and stores its weights: from a checkpoint, from the factory, or random ones for zoo models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager
from deploytool.data import normalised_inputs, pixel_inputs, synthetic
from deploytool.errors import BadInput, StageFailed
from deploytool.host import disk, memory_estimate
from deploytool.loading import factory, output_task, weights_file
from deploytool.loading.checkpoints import checkpoint, random_init
from deploytool.loading.module import arguments, build, double_precision, pixels
from deploytool.loading.stage_inputs import StageInputs
from deploytool.model_checks import probe
from deploytool.results.artifact import Notes
from deploytool.spec import BATCH, Job, Model, Options

_IMAGES = 16  # of the calibration batch: enough for the statistics of batch normalisation


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the weights together with the model definition; the weights are those before any probe ran.

    Observations about the user's model are in the note `remarks`.
    Raises BadInput if the checkpoint or the inputs do not fit the model, StageFailed if the user's code fails.
    """
    options, model = job.options, job.model
    _check_names(model)
    with torch.no_grad(), build.with_seed(options.seed):
        memory_estimate.check(weights_file.size(options.weights), job)
        model, module, origin, remarks = _with_weights(model, options)
        memory_estimate.check(_bytes(module), job)
        disk.check(out.parent, _bytes(module), out.name)
        arguments.bind(module.forward, [tensor.name for tensor in model.inputs], model.constants)  # an unknown name
        state = _state(module, model, options)
        if double_precision.is_double(state):
            model, remarks = _in_single(model, state, options), (*remarks, double_precision.REMARK.format(model.name))
        parameters = sum(parameter.numel() for parameter in module.parameters())
        if factory.is_zoo(model.factory):  # which need not be examined further
            result = probe.describe(module, model, options)
        else:
            del module  # the probes build their own: both would take the memory twice
            eager.check_state(state, model)
            result = probe.examine(model, state, options)
    memory_estimate.check_answers(result.model, options)
    settled, told = output_task.settle(result.model)
    eager.save(state, settled, out)
    return {
        "weights": origin,
        "parameters": parameters,
        "model": serde.encode(settled),
        "remarks": [*remarks, *result.remarks, *told],
    }


def _with_weights(model: Model, options: Options) -> tuple[Model, nn.Module, str, tuple[str, ...]]:
    """The model, adapted to the checkpoint if there is one, its module, the origin of the weights, and remarks."""
    own = pixel_inputs.original(model)  # a checkpoint was trained with images, and random weights are the same for both
    if options.weights is not None:
        if not factory.is_zoo(model.factory):
            build.build(model)  # first: an error of the user's code must not be blamed on the checkpoint
        loaded = checkpoint.load(Path(options.weights.path), own, trust_code=options.trust_code)
        adapted = pixel_inputs.as_before(loaded.model, model)
        built = build.build(adapted)
        built.module.load_state_dict(loaded.state)
        origin = f"{loaded.layout} checkpoint, SHA-256 {options.weights.digest}"
        remark = (f"the weights are {loaded.unwrapped}",) if loaded.unwrapped else ()
        return adapted, built.module, origin, (*built.remarks, *remark)
    if not factory.is_zoo(model.factory):
        built = build.build(model)
        return model, built.module, "as created by the factory", built.remarks
    built, typical = build.build(own), synthetic.sides(options.sizes, "typical")
    cases = normalised_inputs.make(model, probe.draw_cases(model, options, 2))
    tensors = {name: torch.tensor(array) for name, array in cases.items()}
    eager.call_module(built.module, own, tensors)  # raises StageFailed if the model does not run
    with eager.using_threads(1):  # the order of a sum, and so the weights, would depend on the number of threads
        _, inputs = synthetic.draw(own, _IMAGES, options.seed + 1, typical)
        random_init.calibrate(built.module, torch.from_numpy(inputs[own.inputs[0].name]))
    return model, pixels.taking(built.module, model), f"seed {options.seed}", built.remarks


def _state(module: nn.Module, model: Model, options: Options) -> dict[str, Any]:
    """A copy of the module's state; lazy parameters are initialised with one run first."""
    if any(torch.nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        inputs = probe.draw_cases(model, options, options.fixed_batch or 2)
        eager.call_module(module, model, {name: torch.tensor(array) for name, array in inputs.items()})
    state: dict[str, Any] = dict(module.state_dict())
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def _in_single(model: Model, state: Mapping[str, Any], options: Options) -> Model:
    """The definition of a model with FP64 weights as it runs in FP32; raises StageFailed if it runs in FP64 alone."""
    single = double_precision.in_single(model)
    drawn = probe.draw_cases(single, options, options.fixed_batch or 2)
    tensors = {name: torch.tensor(array) for name, array in drawn.items()}
    try:
        eager.call_module(eager.load_state(single, state), single, tensors)
    except StageFailed as error:
        if _runs_in_double(single, state, tensors):
            problem = f"the weights of {model.name} are FP64, and with FP32 it fails: {error}"
            raise StageFailed(problem, double_precision.REMEDY) from error
    return single


def _runs_in_double(model: Model, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a model runs in FP64; if not, it has another fault, which the probes describe."""
    try:
        eager.call_module(eager.load_state(model, state, exact=True), model, tensors, double=True)
    except StageFailed:
        return False
    return True


def _bytes(module: nn.Module) -> int:
    """The size of the module's weights in bytes; shared storage counts once, lazy parameters do not count."""
    tensors = (*module.parameters(), *module.buffers())
    storages = [tensor.untyped_storage() for tensor in tensors if not torch.nn.parameter.is_lazy(tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _check_names(model: Model) -> None:
    """Raises BadInput for an input name with whitespace, and for a second dimension with the name of the batch."""
    for tensor in model.inputs:
        if tensor.name.split() != [tensor.name]:
            raise BadInput(f"an input is named {tensor.name!r}", "use a name without whitespace: --input NAME=SIZES")
        if BATCH in tensor.shape[1:]:
            raise BadInput(f"{tensor.name} has a dimension named {BATCH} besides its first", "rename that dimension")
