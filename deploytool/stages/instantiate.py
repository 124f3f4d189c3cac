"""Instantiates a definition and gives it weights: a checkpoint's, the factory's own, or seeded ones for our zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from deploytool import checkpoints, factory, plain, samples
from deploytool.artifact import Given, Notes
from deploytool.backends import eager
from deploytool.checkpoints import seeded
from deploytool.errors import DeployError, StageFailed
from deploytool.spec import BATCH, Job, Model, Options, Tensor

_IMAGES = 16  # enough for the statistics of a batch norm


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the weights with the definition they belong to: of a checkpoint, as the factory made them, or seeded.

    Raises BadInput if the checkpoint does not fit, StageFailed if the user's code fails.
    """
    options, model = job.options, job.model
    typical = samples.sides(options.sizes, "typical")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(options.seed)
        if options.weights is not None:
            loaded = checkpoints.load(Path(options.weights.path), model, trust_code=options.trust_code)
            model, origin = loaded.model, f"{loaded.layout} checkpoint, SHA-256 {options.weights.digest}"
            module = _made(model)
            module.load_state_dict(loaded.state)
        else:
            module, origin = _made(model), "as the factory made them"
            if factory.is_zoo(model.factory):
                origin = f"seed {options.seed}"
                seeded.calibrate(module, _batch(model, options.seed, typical))
        model = _with_outputs(module, model, options, typical)
    eager.save(module, model, out)
    return {"weights": origin, "parameters": sum(p.numel() for p in module.parameters()), "model": plain.encode(model)}


def _made(model: Model) -> nn.Module:
    try:
        module = factory.resolve(model.factory)(**model.options)
    except DeployError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise StageFailed(f"{model.factory} raises {type(error).__name__}: {error}", "see --arg, or mend it") from error
    if not isinstance(module, nn.Module):
        raise StageFailed(f"{model.factory} gives a {type(module).__name__}", "return a torch.nn.Module")
    return module.eval()


def _batch(model: Model, seed: int, sizes: Mapping[str, int]) -> torch.Tensor:
    _, inputs = samples.draw(model, _IMAGES, seed + 1, sizes)
    return torch.from_numpy(inputs[model.inputs[0].name])


def _with_outputs(module: nn.Module, model: Model, options: Options, typical: Mapping[str, int]) -> Model:
    """The model with its outputs as they are: their number, types and sizes, and which of these are free."""
    example = _answers(module, model, 2, typical)
    other = _answers(module, model, 3, samples.sides(options.sizes, "largest"))
    names = [tensor.name for tensor in model.outputs]
    if len(names) != len(example):
        names = ["logits"] if len(example) == 1 else [f"output_{number}" for number in range(len(example))]
    outputs = [_output(name, *pair) for name, *pair in zip(names, example, other, strict=True)]
    return replace(model, outputs=tuple(outputs))


def _answers(module: nn.Module, model: Model, count: int, sizes: Mapping[str, int]) -> list[torch.Tensor]:
    _, inputs = samples.draw(model, count, 0, sizes)
    given = [torch.from_numpy(inputs[tensor.name]) for tensor in model.inputs]
    try:
        made = module(*given)
    except Exception as error:  # the user's own code may raise anything
        fed = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageFailed(f"{model.name} does not run on {fed}: {reason}", "declare its inputs: --input") from error
    outputs = list(made) if isinstance(made, (tuple, list)) else [made]
    if not all(isinstance(output, torch.Tensor) and output.dim() > 0 and len(output) == count for output in outputs):
        raise StageFailed(f"{model.name} gives something else than tensors with the batch first", "return such tensors")
    return outputs


def _output(name: str, example: torch.Tensor, other: torch.Tensor) -> Tensor:
    """An output with what differs between two examples as a free size."""
    sizes = zip(example.shape[1:], other.shape[1:], strict=True)
    free = [one if one == two else f"{name}_{axis}" for axis, (one, two) in enumerate(sizes, start=1)]
    return Tensor(name, (BATCH, *free), str(example.dtype).removeprefix("torch."))
