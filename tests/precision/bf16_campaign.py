"""Measures how the tolerance of BF16 tells correct graphs from faulty ones: `python -m tests.precision.bf16_campaign`.

Six models of the zoo on small images and four transformers are exported with random weights, and their BF16 and FP16
graphs run in emulated arithmetic, against the tolerance from the noise in that precision. Correct graphs must pass. A
fault that changes the answers less than rounding does passes too; the comparison of the conversion finds it, which runs
the BF16 graph in FP32 against the FP32 graph with rounded weights. Printed is the share of its tolerance that the worst
figure uses: above 1 the check fails.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from deploytool.backends import eager, fp16_emulation
from deploytool.data import golden
from deploytool.data.golden import Arrays, Golden
from deploytool.loading import weights_file
from deploytool.parity import metrics, noise, rounding
from deploytool.pipeline import runner
from deploytool.precision import bf16, fp16, hazards
from deploytool.precision.conversion import Conversion
from deploytool.rewrites.graph import storage
from deploytool.spec import Job, Options, Precision, Stage
from tests.power.models import ZOO, small

TRANSFORMERS = ("bert", "gpt_large", "llama", "vit")
RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY)
EPSILONS = (1e-3, 1e-2, 1e-1)
_HEAVY = ("Conv", "Gemm", "MatMul")
_NORMS = (nn.BatchNorm2d, nn.LayerNorm)

Fault = Callable[[onnx.ModelProto], None]


def heavy_weights(graph: onnx.ModelProto, least_rank: int = 2) -> list[onnx.TensorProto]:
    """The weights of the heavy nodes, in graph order."""
    weights = {weight.name: weight for weight in graph.graph.initializer}
    read = [node.input[1] for node in graph.graph.node if node.op_type in _HEAVY]
    return [weights[name] for name in dict.fromkeys(read) if name in weights and len(weights[name].dims) >= least_rank]


def wrong_weight(graph: onnx.ModelProto) -> None:
    """Negates the first filter of the heavy node in the middle."""
    weights = heavy_weights(graph)
    weight = weights[len(weights) // 2]
    values = numpy_helper.to_array(weight).copy()
    channel = values[0] if values.ndim == 4 else values[..., 0]
    channel *= -1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def swapped_axis(graph: onnx.ModelProto) -> None:
    """Swaps the last two axes of the first square weight behind the middle that is larger than 1 × 1."""
    square = [weight for weight in heavy_weights(graph) if weight.dims[-1] == weight.dims[-2] > 1]
    weight = square[len(square) // 2]
    swapped = np.ascontiguousarray(numpy_helper.to_array(weight).swapaxes(-1, -2))
    weight.CopyFrom(numpy_helper.from_array(swapped, weight.name))


FAULTS: dict[str, Fault] = {"correct": lambda graph: None, "wrong weight": wrong_weight, "swapped axis": swapped_axis}


def convert(graph: onnx.ModelProto, precision: Precision) -> Conversion:
    return bf16.convert(graph) if precision is Precision.BF16 else fp16.convert(graph, keep_io=True)


def share(answers: Arrays, expected: Arrays, sample: Golden, precision: Precision) -> float:
    """The largest share of a tolerance; at least 1.01 if the check fails by another figure."""
    limits = getattr(metrics.tolerances(sample.noise, {}), precision)
    check = metrics.check(answers, expected, "", limits, sample.ties(precision))
    largest = metrics.largest_share(check)
    return max(largest, 1.01) if check.broken else min(largest, 1.0)


def graph_rows(original: Path, sample: Golden, folder: Path) -> Iterator[tuple[str, list[float]]]:
    """For each fault, the shares in BF16, in FP16, and of the comparison of the BF16 conversion."""
    for name, plant in FAULTS.items():
        faulty, path, shares = storage.load(original), folder / "model.onnx", list[float]()
        plant(faulty)
        for precision in (Precision.FP16, Precision.BF16):
            conversion = convert(faulty, precision)
            storage.save(conversion.keeping(hazards.find(conversion).nodes), path)
            with fp16_emulation.start(path) as session:
                shares.insert(0, share(session(**sample.inputs), sample.reference, sample, precision))
        with (
            fp16_emulation.start_without_rounding(path) as widened,
            fp16_emulation.start_with_rounded_weights(original, path) as rounded,
        ):
            shares.append(share(widened(**sample.inputs), rounded(**sample.inputs), sample, Precision.FP32))
        yield name, shares


def epsilon_rows(weights: Path, sample: Golden) -> Iterator[tuple[str, list[float]]]:
    """For each wrong epsilon of all norms, the shares of the model in BF16 and in FP16, rounded to nearest."""
    for epsilon in EPSILONS:
        module, model = eager.load_module(weights), weights_file.definition(weights)
        for norm in module.modules():
            if isinstance(norm, _NORMS):
                norm.eps = epsilon
        runs = [noise.perturbed_runs(module, model, narrow)[1][0] for narrow in (rounding.BF16, rounding.FP16)]
        precisions = zip(runs, (Precision.BF16, Precision.FP16), strict=True)
        yield f"eps {epsilon:.0e}", [share(run(sample.inputs), sample.reference, sample, at) for run, at in precisions]


def measure(name: str, number: int, home: Path) -> None:
    job = Job(
        small(name, 100 + number), Options(images=4, seed=100 + number, exporter=("torchscript", "dynamo")[number % 2])
    )
    list(runner.run(job, RECIPE, home / name))
    weights, sample = home / name / "load" / "weights.safetensors", golden.read(home / name / "golden" / "golden.npz")
    module, model = eager.load_module(weights), weights_file.definition(weights)
    measured = noise.with_bf16(sample.noise, module, model, sample.inputs, sample.reference)
    sample = replace(sample, noise=measured.noise)
    assert measured.noise.bf16
    print(f"{name}: noise in BF16 {measured.noise.bf16.max_error:.1e}, in FP16 {measured.noise.fp16.max_error:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        rows = [*graph_rows(home / name / "simplify" / "model.onnx", sample, Path(folder))]
    if any(isinstance(part, _NORMS) for part in module.modules()):
        rows += epsilon_rows(weights, sample)
    for fault, shares in rows:
        columns = zip(("BF16", "FP16", "conversion"), shares, strict=False)
        print(f"  {fault:<14}", *(f"{title} {used:9.2f}  " for title, used in columns), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where runs are kept; a temporary folder by default")
    home = parser.parse_args().home
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate((*ZOO, *TRANSFORMERS)):
            measure(name, number, home or Path(folder))


if __name__ == "__main__":
    main()
