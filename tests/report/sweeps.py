"""Made-up sweeps of any size, with cells in every state."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from deploytool import serde
from deploytool.results import sweep as sweeps
from deploytool.results.artifact import PAGE
from deploytool.results.measure import Inferiority
from deploytool.results.sweep import Cell, CellResult, CellState, Closeness, Drop, Machine, Pending, SpeedUp, Sweep
from deploytool.spec import Precision, Range, SpeedVerdict, Stage, Status, Verdict

START = 1_780_000_000.0
MODELS = (
    *("shufflenet_g3", "mobilenet_v1", "mixnet_s", "resnet50", "efficientnet_b0", "convnext_tiny", "vit_small"),
    *("hf:org/bert-base-uncased", "timm:regnety_016", "detector.py:build", "graphs/segmenter.onnx", "swin_tiny"),
)
TARGETS = ("rtx40", "orin", "a100", "h100", "gb10")
MACHINES = (Machine("alpha", "AMD EPYC 7763", ("NVIDIA L4",)), Machine("beta", "Intel Xeon 8480", ()))
PROBLEMS = (
    ("torch.export cannot follow a branch on data in model.py:41", "rewrite it with torch.where", 7),
    ("fp16/model.onnx against FP64: the largest error is 3.1e-02", "repeat the command with --keep-fp32 auto", 3),
)

DROPS = (  # the worst verdict in the middle, and beside it a larger drop that is not decided
    Drop(Stage.REWRITE, "model.onnx", "onnxruntime", "map", 0.0, -0.01, 0.01, 0.005, Inferiority.NOT_DECIDED),
    Drop(Stage.FP16, "model.onnx", "onnxruntime", "map", 0.02, 0.01, 0.03, 0.005, Inferiority.WORSE),
    Drop(Stage.BUILD, "model.plan", "tensorrt", "map", 0.04, -0.01, 0.09, 0.005, Inferiority.NOT_DECIDED),
)


def names(count: int, known: Sequence[str]) -> list[str]:
    """Known names, and as many made-up ones as are needed."""
    return [*known[:count], *(f"model_{index:04}" for index in range(len(known), count))]


def cells(
    models: int = 12,
    exporters: Sequence[str] = ("torchscript", "dynamo"),
    targets: Sequence[str] = TARGETS,
    precisions: Sequence[Precision] = (Precision.FP16,),
    batches: Sequence[Range | None] = (None,),
) -> list[Cell]:
    """The product of everything, in the order of the table."""
    return [
        Cell(
            "-".join([model.replace("/", "_").replace(":", "_"), precision, exporter, target or "none"])
            + (f"-b{batch.typical}" if batch else ""),
            model,
            precision=precision,
            exporter=exporter,
            target=target,
            batch=batch,
        )
        for model, precision, exporter, batch, target in product(
            names(models, MODELS), precisions, exporters, batches, targets
        )
    ]


def passed(cell: Cell, pick: random.Random, at: float = START) -> CellResult:
    """A cell that passed, with the figures that its model and target make likely."""
    machine = MACHINES[pick.randrange(2)]
    base = 1 + sum(map(ord, cell.model)) % 7
    ratio = base * pick.uniform(0.4, 0.6)
    size = (base * 1_300_000) // (1 if cell.precision is Precision.FP32 else 2)
    stage = Stage.REWRITE if cell.precision is Precision.FP32 else Stage.FP16
    speed = SpeedUp(
        *(stage, "model.onnx", "onnxruntime", Status.MEASURED, 12.0 / ratio, ratio, ratio * 0.97, ratio * 1.04),
        *(SpeedVerdict.FASTER, ""),
    )
    close = Closeness(
        *(stage, "model.onnx", "onnxruntime", Status.MEASURED, "the FP64 source", 1e-4 * base, pick.uniform(0.05, 0.9)),
        *(True, 1 - pick.randrange(3) / 200, 0.98, 1.0, None, None),
    )
    waits = cell.target in ("orin", "h100")
    pending = (Pending("build/model.plan", cell.target, "built, not run", "no such GPU here"),) if waits else ()
    digest = serde.digest(cell.model, cell.precision, cell.exporter)
    return CellResult(
        cell,
        CellState.PASSED,
        f"cells/{cell.name}",
        Verdict.PASS_HERE if waits else Verdict.PASS,
        seconds=20.0 * base,
        started=at,
        ended=at + 20.0 * base,
        machine=machine,
        timed=True,
        digests={f"{stage}/model.onnx": digest},
        sizes={f"{stage}/model.onnx": size, "load/weights.safetensors": 2 * size},
        speeds=(speed,),
        closeness=(close,),
        pending=pending,
        shared=(Stage.LOAD, Stage.GOLDEN),
    )


def ended(cell: Cell, state: CellState, problem: str = "", remedy: str = "", code: int = 7) -> CellResult:
    """A cell that ended without passing."""
    verdict = Verdict.FAIL if state is CellState.FAILED else None
    folder = f"cells/{cell.name}"
    return CellResult(cell, state, folder, verdict, code, problem, remedy, 5.0, START, START + 5, MACHINES[0])


def result(index: int, cell: Cell, pick: random.Random, at: float) -> CellResult:
    """One of every state: most cells pass, vit_small fails with dynamo, the detector cannot be exported."""
    if cell.model == "detector.py:build" and cell.exporter == "torchscript":
        return ended(cell, CellState.REFUSED, *PROBLEMS[0])
    if cell.model == "vit_small" and cell.target in ("a100", "h100"):
        return ended(cell, CellState.FAILED, *PROBLEMS[1])
    if index % 61 == 17:
        return ended(cell, CellState.LOST, "three workers died with it", "give a worker more memory", 1)
    if index % 53 == 20:
        return CellResult(cell, CellState.PENDING, f"cells/{cell.name}")
    return passed(cell, pick, at)


def sweep(wanted: Sequence[Cell] | None = None, seed: int = 0) -> Sweep:
    """A sweep of these cells, by default 120, one after another."""
    pick, at, results = random.Random(seed), START, []
    for index, cell in enumerate(wanted if wanted is not None else cells()):
        results.append(result(index, cell, pick, at))
        at = results[-1].ended or at
    return of(results)


def of(results: Sequence[CellResult]) -> Sweep:
    """A sweep with these results."""
    versions = {"deploytool": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.24.2", "dask": "2026.1.0"}
    work = sum(each.seconds for each in results)
    return Sweep(sweeps.SCHEMA, versions, {"quick": True, "images": 12}, tuple(results), START, work / 4, work, 4, 7)


def store(home: Path, written: Sweep) -> Path:
    """Writes a sweep into a folder, with an empty page for every cell that has ended with a verdict."""
    home.mkdir(parents=True, exist_ok=True)
    (home / sweeps.FILE).write_text(serde.text(written), encoding="utf-8")
    for each in written.cells:
        if each.verdict:
            (home / each.folder).mkdir(parents=True, exist_ok=True)
            (home / each.folder / PAGE).write_text("<!doctype html><title>a cell</title>")
    return home
