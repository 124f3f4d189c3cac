"""An invented benchmark of a run: the eager model, an FP16 graph twice as fast, and an engine that was not run."""

from __future__ import annotations

from pathlib import Path

from deploytool import serde
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
from deploytool.benchmark.result import SCHEMA, BatchResult, Bench, Latency, Row
from deploytool.spec import SpeedVerdict, Status

MACHINE = "One CPU (2 threads)"


def benchmark(run: Path, batches: tuple[int, ...] = (1, 8)) -> Bench:
    """The benchmark of the FP16 graph of a run; except for batch 1, the machine was too uneven for a verdict."""
    files = {"fp16/model.onnx": serde.file_digest(run / "fp16" / "model.onnx")}
    sweeps = tuple(_sweep(batch) for batch in batches)
    return Bench(SCHEMA, "tiny", "cpu", MACHINE, 2, 1.0, "eager", sweeps, None, files, {})


def _sweep(batch: int) -> BatchResult:
    uneven = None if batch == 1 else "it was busy"
    conditions = Conditions(2, 2, 0.1, 0.0, 1.0, 1.1, 1.0, (), (), uneven)
    rows = (
        Row("eager", "", "eager", Status.MEASURED, _latency(4.0 * batch, uneven)),
        Row(
            "fp16",
            "model.onnx",
            "onnxruntime",
            Status.MEASURED,
            latency=_latency(2.0 * batch, uneven),
            ratio=Ratio(2.0, 1.9, 2.1),
            verdict=SpeedVerdict.FASTER if batch == 1 else SpeedVerdict.NO_VERDICT,
            reason="" if batch == 1 else "the machine was too uneven: it was busy",
        ),
        Row("build", "model.plan", "tensorrt_rtx", Status.BUILT_NOT_RUN),
    )
    return BatchResult(batch, 20, conditions, Ratio(1.0, 0.99, 1.01), rows)


def _latency(middle_ms: float, uneven: str | None) -> Latency:
    times_ms = tuple(middle_ms * (1 + 0.01 * (turn % 7)) for turn in range(20))
    return Latency(middle_ms, 1.5 * middle_ms, None if uneven else 2.5 * middle_ms, middle_ms, 0.0, times_ms)
