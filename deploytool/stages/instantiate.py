"""Instantiates a definition and gives it weights: a checkpoint's, the factory's own, or seeded ones for our zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploytool import checkpoints, factory, plain, samples
from deploytool.artifact import Given, Notes
from deploytool.backends import eager
from deploytool.checkpoints import seeded
from deploytool.errors import BadInput, DeployError, StageFailed
from deploytool.golden import Arrays
from deploytool.spec import BATCH, DTYPES, Job, Model, Options, Tensor

_IMAGES = 16  # enough for the statistics of a batch norm


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the weights with the definition they belong to: of a checkpoint, as the factory made them, or seeded.

    Raises BadInput if the checkpoint does not fit, StageFailed if the user's code fails.
    """
    options, model = job.options, job.model
    _check_words(model)
    typical = samples.sides(options.sizes, "typical")
    remarks: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(options.seed)
        if options.weights is not None:
            if not factory.is_zoo(model.factory):
                _made(model)  # what the user's own code raises is not the checkpoint's fault
            loaded = checkpoints.load(Path(options.weights.path), model, trust_code=options.trust_code)
            model, origin = loaded.model, f"{loaded.layout} checkpoint, SHA-256 {options.weights.digest}"
            remarks = [f"the weights are {loaded.unwrapped}"] if loaded.unwrapped else []
            module = _made(model)
            module.load_state_dict(loaded.state)
        else:
            module, origin = _made(model), "as the factory made them"
            if factory.is_zoo(model.factory):
                origin = f"seed {options.seed}"
                _answers(module, model, _drawn(model, 2, typical))  # raises where it cannot take these inputs
                with eager.on_threads(1):  # more would sum in another order: other weights on each machine
                    seeded.calibrate(module, _batch(model, options.seed, typical))
        model = _with_outputs(module, model, options, typical)
    eager.save(module, model, out)
    parameters = sum(p.numel() for p in module.parameters())
    return {"weights": origin, "parameters": parameters, "model": plain.encode(model), "remarks": list(remarks)}


def _check_words(model: Model) -> None:
    """Raises BadInput for a name that a file format cannot carry, and for a size that would follow the batch."""
    for tensor in model.inputs:
        if tensor.name.split() != [tensor.name]:
            raise BadInput(f"an input is called {tensor.name!r}", "give it a name without blanks: --input NAME=SIZES")
        if BATCH in tensor.shape[1:]:
            raise BadInput(f"{tensor.name} has a size called {BATCH} besides its first", "call it something else")


def _made(model: Model) -> nn.Module:
    try:
        module = factory.resolve(model.factory)(**model.options)
    except DeployError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StageFailed(f"{model.factory} raises {reason}", "see --arg, or mend it") from error
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise StageFailed(f"{model.factory} gives a {type(module).__name__}", "return a torch.nn.Module")
    return module.eval()


def _batch(model: Model, seed: int, sizes: Mapping[str, int]) -> torch.Tensor:
    _, inputs = samples.draw(model, _IMAGES, seed + 1, sizes)
    return torch.from_numpy(inputs[model.inputs[0].name])


def _with_outputs(module: nn.Module, model: Model, options: Options, typical: Mapping[str, int]) -> Model:
    """The model with its outputs as they are: their number, types and sizes, and which of these are free."""
    two = _drawn(model, 2, typical)
    one = {name: array[:1] for name, array in two.items()}
    example, alone = _answers(module, model, two), _answers(module, model, one)
    free = [samples.sides(options.sizes, end) for end in ("smallest", "largest")] if options.sizes else []
    ends = [_answers(module, model, _drawn(model, 1, sizes)) for sizes in free]
    for tensor in example:
        if _dtype(tensor) not in DTYPES:
            raise StageFailed(f"{model.name} gives a tensor of {_dtype(tensor)}", f"give one of {', '.join(DTYPES)}")
    again = _answers(module, model, two)
    pairs = zip(example, again, strict=True)
    if not all(np.allclose(before.numpy(), after.numpy(), equal_nan=True) for before, after in pairs):
        what = f"{model.name} answers the same inputs differently each time"
        raise StageFailed(what, "let it draw no random numbers, nor drop any, where self.training is false")
    names = [tensor.name for tensor in model.outputs]
    if len(names) != len(example):
        names = ["logits"] if len(example) == 1 else [f"output_{number}" for number in range(len(example))]
    if both := {tensor.name for tensor in model.inputs} & set(names):
        raise BadInput(f"{model.name} has an output called {min(both)} too", "give the input another name")
    for name, single, double in zip(names, alone, example, strict=True):
        if single.shape[1:] != double.shape[1:]:
            what = f"{model.name} gives {name} as {tuple(single.shape)} of 1 case, and as {tuple(double.shape)} of 2"
            raise StageFailed(what, "let only the first dimension of an output depend on the batch")
    outputs = [_output(model, name, *each) for name, *each in zip(names, example, *ends, strict=True)]
    return replace(model, outputs=tuple(outputs))


def _drawn(model: Model, count: int, sizes: Mapping[str, int]) -> Arrays:
    _, inputs = samples.draw(model, count, 0, sizes)
    return inputs


def _answers(module: nn.Module, model: Model, inputs: Arrays) -> Sequence[torch.Tensor]:
    given = {tensor.name: torch.tensor(inputs[tensor.name]) for tensor in model.inputs}  # a copy: a model may change it
    return eager.run(module, model, given)


def _output(model: Model, name: str, example: torch.Tensor, *ends: torch.Tensor) -> Tensor:
    """An output with what differs between the examples as a free size."""
    if any(end.dim() != example.dim() for end in ends):
        what = f"{model.name} gives {name} now in {example.dim()} dimensions and now in {ends[0].dim()}"
        raise StageFailed(what, "give always as many")
    free = [
        side if all(end.shape[axis] == side for end in ends) else f"{name}_{axis}"
        for axis, side in enumerate(example.shape[1:], start=1)
    ]
    return Tensor(name, (BATCH, *free), _dtype(example))


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
