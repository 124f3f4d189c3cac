"""Instantiates a definition and gives it weights: a checkpoint's, the factory's own, or seeded ones for our zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploytool import serde
from deploytool.backends import eager
from deploytool.data import synthetic
from deploytool.errors import BadInput
from deploytool.host import disk, memory_estimate
from deploytool.loading import factory, weights_file
from deploytool.loading.checkpoints import checkpoint, random_init
from deploytool.loading.module import arguments, build
from deploytool.loading.stage_inputs import StageInputs
from deploytool.model_checks import probe
from deploytool.model_checks.probe import ProbeResult
from deploytool.results.artifact import Notes
from deploytool.spec import BATCH, Job, Model, Options

_IMAGES = 16  # enough for the statistics of a batch norm


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the weights with the definition they belong to: of a checkpoint, as the factory made them, or seeded.

    What was seen of the user's model on the way stands in `remarks`. The weights are those before any probe ran.
    Raises BadInput if the checkpoint or the inputs do not fit, StageFailed if the user's code fails.
    """
    options, model = job.options, job.model
    _check_words(model)
    with torch.no_grad(), build.with_seed(options.seed):
        memory_estimate.check(weights_file.size(options.weights), job)
        model, module, origin, remarks = _weighted(model, options)
        memory_estimate.check(_bytes(module), job)
        disk.check(out.parent, _bytes(module), out.name)
        arguments.bind(module.forward, [tensor.name for tensor in model.inputs])  # raises where a name is none of its
        state = _state(module, model, options)
        probed = _probed(module, model, state, options)
    eager.save(state, probed.model, out)
    return {
        "weights": origin,
        "parameters": sum(p.numel() for p in module.parameters()),
        "model": serde.encode(probed.model),
        "remarks": [*remarks, *probed.remarks],
    }


def _weighted(model: Model, options: Options) -> tuple[Model, nn.Module, str, tuple[str, ...]]:
    """The model as its weights want it, the module with them, where they are from, and what was done to it."""
    if options.weights is not None:
        if not factory.is_zoo(model.factory):
            build.build(model)  # what the user's own code raises is not the checkpoint's fault
        loaded = checkpoint.load(Path(options.weights.path), model, trust_code=options.trust_code)
        built = build.build(loaded.model)
        built.module.load_state_dict(loaded.state)
        origin = f"{loaded.layout} checkpoint, SHA-256 {options.weights.digest}"
        taken = (f"the weights are {loaded.unwrapped}",) if loaded.unwrapped else ()
        return loaded.model, built.module, origin, (*built.remarks, *taken)
    built, origin = build.build(model), "as the factory made them"
    if factory.is_zoo(model.factory):
        origin, typical = f"seed {options.seed}", synthetic.sides(options.sizes, "typical")
        two = probe.draw_cases(model, options, 2)
        eager.call_module(
            built.module, model, {name: torch.tensor(array) for name, array in two.items()}
        )  # raises if it cannot
        with eager.using_threads(1):  # more would sum in another order: other weights on each machine
            _, inputs = synthetic.draw(model, _IMAGES, options.seed + 1, typical)
            random_init.calibrate(built.module, torch.from_numpy(inputs[model.inputs[0].name]))
    return model, built.module, origin, built.remarks


def _state(module: nn.Module, model: Model, options: Options) -> dict[str, Any]:
    """The module's state before any probe; one that learns its sizes from the first input has seen one."""
    if any(torch.nn.parameter.is_lazy(each) for each in (*module.parameters(), *module.buffers())):
        inputs = probe.draw_cases(model, options, options.fixed_batch or 2)
        eager.call_module(module, model, {name: torch.tensor(array) for name, array in inputs.items()})
    state: dict[str, Any] = dict(module.state_dict())
    return {name: each.clone() if isinstance(each, torch.Tensor) else each for name, each in state.items()}


def _bytes(module: nn.Module) -> int:
    """The bytes of the module's weights; what layers share counts once, and what has no size yet does not."""
    known = [each for each in (*module.parameters(), *module.buffers()) if not torch.nn.parameter.is_lazy(each)]
    stored = (each.untyped_storage() for each in known)
    return sum({each.data_ptr(): each.nbytes() for each in stored}.values())


def _probed(module: nn.Module, model: Model, state: dict[str, Any], options: Options) -> ProbeResult:
    """Our own models are known; of all others is found out what they do."""
    if factory.is_zoo(model.factory):
        return probe.describe(module, model, options)
    eager.check_state(state, model)
    return probe.examine(model, state, options)


def _check_words(model: Model) -> None:
    """Raises BadInput for a name that a file format cannot carry, and for a size that would follow the batch."""
    for tensor in model.inputs:
        if tensor.name.split() != [tensor.name]:
            raise BadInput(f"an input is called {tensor.name!r}", "give it a name without blanks: --input NAME=SIZES")
        if BATCH in tensor.shape[1:]:
            raise BadInput(f"{tensor.name} has a size called {BATCH} besides its first", "call it something else")
