"""Builds INT8 or FP8 engines of the main models and of foreign ones: `python -m tests.int8.engines [--precision fp8]`.

For each model the form of the graph for engines is quantised for TensorRT, with ranges of random inputs, and built by
TensorRT-RTX without a GPU; likewise in FP16. A row has the share of multiply-accumulates in 8 bits, forms that TensorRT
does not take, and what both build logs list. `--targets` builds the graph for each of these GPUs alone as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deploytool.backends import tensorrt, tensorrt_builder, tensorrt_estimate
from deploytool.backends.tensorrt_estimate import BuildEstimate
from deploytool.cli import params
from deploytool.data import golden
from deploytool.errors import DeployError
from deploytool.host import machine
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.precision import fp16
from deploytool.precision.int8 import executed, macs, refusals
from deploytool.precision.int8.macs import Int8Share
from deploytool.precision.int8.quantize import candidates, quantize
from deploytool.results.artifact import engine_graph
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph import storage
from deploytool.spec import BATCH, EnginePlan, Job, Model, Options, Precision, Range, Stage, Tensor
from deploytool.targets import TARGETS, TENSORRT_RTX, in_precision
from tests.foreign.table import NET_TABLE
from tests.models.test_specs import specs
from tests.precision.int8.ranges import measured_ranges

STAGES = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE)
FOREIGN = ("residual", "mobile", "efficient", "convnext", "unet", "yolo_apart", "vit", "bert")
BATCHES = {BATCH: Range(1, 1, 8)}
FORMS = {Precision.INT8: Form.TENSORRT, Precision.FP8: Form.E4M3}
_COLUMNS = (
    *("model", "{0} of what may be", "of all", "in {0} kernels", "refused forms"),
    *("kernels FP16 → {0}", "syncs", "traffic, MB", "engine, MB", "targets", "advice"),
)


@dataclass(frozen=True)
class Built:
    """A model's graph in 8 bits: shares as placed and in kernels, refused forms, and the costs of both engines.

    `targets` are those that an engine was built for.
    """

    name: str
    placed: Int8Share
    run: Int8Share
    refused: tuple[str, ...]
    narrow: BuildEstimate
    half: BuildEstimate
    targets: tuple[str, ...] = field(default=())

    @property
    def row(self) -> str:
        """A row of the table."""
        pairs = [(self.half.kernels, self.narrow.kernels), (self.half.syncs, self.narrow.syncs)]
        counts = [f"{old} → {new}" for old, new in pairs]
        sizes = [(self.half.traffic, self.narrow.traffic), (self.half.size, self.narrow.size)]
        counts += [f"{old / 1e6:.1f} → {new / 1e6:.1f}" for old, new in sizes]
        shares = [self.placed.of_allowed, self.placed.of_all, self.run.of_allowed]
        advice = "FP16 until measured" if self.narrow.kernels > self.half.kernels else "measure both"
        cells = [self.name, *(f"{share:.1%}" for share in shares), "; ".join(self.refused) or "none"]
        return f"| {' | '.join([*cells, *counts, ', '.join(self.targets), advice])} |"


def models(names: Sequence[str]) -> Iterator[Model]:
    """The main models of the zoo and the foreign ones with these names."""
    nets = {net.factory: net for net in NET_TABLE}
    for name in names:
        if name in nets:
            yield catalog.find(f"{nets[name].path}:{name}", params.tensors(nets[name].inputs[0].split()))
        else:
            yield catalog.find(name)


def measure(model: Model, folder: Path, targets: Sequence[str], precision: Precision = Precision.INT8) -> Built:
    """Builds the engines of one model; raises DeployError where a stage or TensorRT refuses it."""
    options = Options(images=4, seconds=0.0, batch=BATCHES[BATCH], rewrite="fewest-nodes", rewrite_implied=True)
    _, sample, *_, rewritten = runner.run(Job(model, options), STAGES, folder)
    graph, form = storage.load(engine_graph(rewritten.path)), FORMS[precision]
    inputs = {name: array[:2] for name, array in golden.read(sample.path).inputs.items()}
    quantized = quantize(graph, measured_ranges(graph, inputs), form)
    able = in_precision(EnginePlan("engine.plan", TENSORRT_RTX), precision)
    assert able is not None
    log, size = _build(quantized, inputs, able.capabilities)
    half = _build(fp16.convert(graph, keep_io=True).half, inputs, able.capabilities)
    for target in targets:
        _build(quantized, inputs, (TARGETS[target].capability,))
    counts, allowed = macs.count(graph), candidates(graph, form)
    placed, run = macs.in_graph(quantized), executed.in_tensorrt(log, precision)
    return Built(
        model.name,
        macs.share(counts, placed, allowed),
        macs.share(counts, run, allowed),
        tuple(dict.fromkeys(str(each.form) for each in refusals.refusals(quantized))),
        tensorrt_estimate.parse_log(log, size),
        tensorrt_estimate.parse_log(*half),
        (f"{', '.join(able.capabilities) or '8.0 to 12.1'} in one", *targets),
    )


def _build(
    graph: onnx.ModelProto, inputs: Mapping[str, np.ndarray[Any, Any]], capabilities: tuple[str, ...]
) -> tuple[str, int]:
    """The verbose log of an engine for these compute capabilities, TensorRT-RTX's default if empty, and its size."""
    log: list[str] = []
    tensors = [Tensor(name, (BATCH, *array.shape[1:]), str(array.dtype)) for name, array in inputs.items()]
    plan = EnginePlan("engine.plan", TENSORRT_RTX, capabilities)
    library, message = tensorrt.library(TENSORRT_RTX), graph.SerializeToString()
    built = tensorrt_builder.build(library, message, plan, tensors, BATCHES, None, fp32_layers=None, listen=log.append)
    return "\n".join(log), len(built.engine)


def header(precision: Precision = Precision.INT8) -> list[str]:
    """The conditions, and the names of the columns."""
    columns = [column.format(precision.upper()) for column in _COLUMNS]
    versions = f"TensorRT-RTX {machine.version('tensorrt-rtx')}, built and not run; {time.strftime('%Y-%m-%d')}"
    return [versions, "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*specs.MAIN, *FOREIGN])
    parser.add_argument("--precision", type=Precision, choices=list(FORMS), default=Precision.INT8)
    parser.add_argument("--targets", nargs="*", choices=list(TARGETS), default=[])
    parser.add_argument("--page", type=Path, help="file for the table, written after each model")
    options = parser.parse_args()
    lines = header(options.precision)
    with tempfile.TemporaryDirectory() as folder:
        for model in models(options.names):
            began = time.monotonic()
            try:
                lines.append(measure(model, Path(folder, model.name), options.targets, options.precision).row)
            except DeployError as error:
                lines.append(f"| {model.name} | {error} |{' |' * (len(_COLUMNS) - 2)}")
            print(lines[-1], f"{time.monotonic() - began:.0f} s", flush=True)
            if options.page:
                options.page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
