"""Runs one cell of the sweep: exports a network, and compares deploytool's verdict with FP64 references."""

from __future__ import annotations

import functools
import shutil
import time
import traceback
import warnings
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

import deploytool
from deploytool.errors import DeployError
from deploytool.results import verdict
from deploytool.spec import BATCH, Tensor
from tests.foreign import truth
from tests.foreign.table import Cell, Expected

FP32_MAX_TOLERANCE, FP16_MAX_TOLERANCE = 1e-3, 1e-2  # the largest tolerances that are accepted
FP32_DEFAULT_TOLERANCE, FP16_DEFAULT_TOLERANCE = 1e-5, 5e-3  # used if the export was refused before it had a tolerance
WRONG_FACTOR, RIGHT_FACTOR = 4.0, 0.5  # multiples of a tolerance: above is wrong, below is right
CHANGED_RIGHT, CHANGED_WRONG = 0.02, 0.08  # shares of an integer output that may differ because of ties


class Outcome(Enum):
    """The result of the export."""

    PASS = "pass"
    FAIL = "fail"  # the run's checks failed
    REFUSED = "refused"  # the export was refused
    UNCLEAR = "traceback"  # an error that is not a one-line message
    LATE = "too late"


class Agreement(Enum):
    """Whether the outcome agrees with the FP64 references."""

    AGREES = "agrees"
    FALSE_PASS = "false pass"
    FALSE_REFUSAL = "false refusal"
    UNCLEAR = "traceback"
    BETWEEN = "between"  # refused, and neither clearly right nor clearly wrong


@dataclass(frozen=True)
class Result:
    """A cell's outcome, agreement, message, duration, errors and tolerances."""

    name: str
    outcome: str
    agreement: str
    message: str
    seconds: float
    fp32: float = 0.0
    fp16: float = 0.0
    tolerances: dict[str, float] = field(default_factory=dict)
    worst: str = ""
    changed: float = 0.0


def measure(cell: Cell, folder: Path) -> Result:
    """Exports a cell, evaluates its files and compares both results."""
    start = time.perf_counter()
    run_folder = folder / cell.name.replace("/", "_")
    shutil.rmtree(run_folder, ignore_errors=True)
    outcome, message, tolerances = _export(cell, run_folder)
    seconds = time.perf_counter() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own_error, deviations = _evaluate(cell, run_folder, outcome)
    agreement = classify(cell.net.expected, outcome, own_error, deviations, tolerances)
    fp32, fp16 = (
        max([0.0, *(deviation.error for deviation in deviations if deviation.fp16 is fp16)]) for fp16 in (False, True)
    )
    worst = max(deviations, key=lambda deviation: deviation.error, default=None)
    where = f"{Path(worst.file).parent.name}: {worst.where or worst.fault}" if worst else ""
    changed = max([0.0, *(deviation.changed for deviation in deviations)])
    shutil.rmtree(run_folder, ignore_errors=True)
    verdicts = (outcome.value, agreement.value, message)
    return Result(cell.name, *verdicts, round(seconds, 2), fp32, fp16, tolerances, where, changed)


def _export(cell: Cell, folder: Path) -> tuple[Outcome, str, dict[str, float]]:
    inputs = [
        Tensor(tensor.name, (BATCH, *tensor.shape), tensor.dtype, tensor.below)
        for tensor in cell.net.tensors(cell.size)
    ]
    try:
        run = deploytool.export(
            f"{cell.net.path}:{cell.net.factory}",
            inputs=inputs,
            arguments={"size": cell.size, "seed": cell.seed},
            exporter=cell.exporter,
            quick=True,
            out=folder,
        )
    except DeployError as error:
        message = f"{error} -> {error.remedy}"
        return (Outcome.UNCLEAR if "\n" in message else Outcome.REFUSED), message[:500], {}
    except BaseException as failure:
        if isinstance(failure, KeyboardInterrupt):
            raise
        return Outcome.UNCLEAR, "".join(traceback.format_exception(failure))[-1500:], {}
    tolerances = verdict.largest_tolerances(run.report)
    if run.error is not None:
        broken = "; ".join(verdict.failed_lines(run.report))
        return Outcome.FAIL, f"{run.error} [{broken}]"[:500], tolerances
    return Outcome.PASS, "", tolerances


def _evaluate(cell: Cell, folder: Path, outcome: Outcome) -> tuple[float, list[truth.Deviation]]:
    """The network's own FP32 error, and the deviations of its files; of torch.onnx's file if the export was refused."""
    build = functools.partial(truth.network, cell.net.path, cell.net.factory, cell.size, cell.seed)
    inputs = truth.make_inputs(cell.net.tensors(cell.size), cell.seed)
    if cell.net.decides:  # the other inputs cause ties only
        inputs = {name: inputs[name] for name in ("fresh", "fresh again")}
    files = sorted(folder.glob("*/*.onnx"))
    try:
        exact = build()
        reference = truth.expected(exact, inputs)
        alternatives = truth.perturbed_outputs(exact, inputs, cell.net.decides) if cell.net.decides else []
    except Exception as failure:
        return 0.0, [truth.Deviation("eager", False, np.inf, "", 0.0, f"{type(failure).__name__}: {failure}"[:200])]
    own_error = max(truth.fp32_error(build(), inputs, reference).error, truth.rounding_error(exact, inputs, reference))
    if not files and outcome is not Outcome.PASS:
        folder.mkdir(parents=True, exist_ok=True)
        unchecked = folder / "plain.onnx"
        fault = truth.export_onnx(build(), inputs, cell.exporter, unchecked)
        if fault:
            return own_error, [truth.Deviation(f"{folder}/plain/x", False, np.inf, "", 0.0, fault)]
        files = [unchecked]
    return own_error, [truth.judge(file, inputs, reference, alternatives) for file in files]


def classify(
    expected: Expected,
    outcome: Outcome,
    own_error: float,
    deviations: list[truth.Deviation],
    tolerances: dict[str, float],
) -> Agreement:
    """Whether the outcome is right; `own_error` is the error of the network's own FP32 outputs."""
    if outcome in (Outcome.UNCLEAR, Outcome.LATE):
        return Agreement.UNCLEAR
    if expected is Expected.REFUSED:
        return Agreement.FALSE_PASS if outcome is Outcome.PASS else Agreement.AGREES
    defaults = {False: FP32_DEFAULT_TOLERANCE, True: FP16_DEFAULT_TOLERANCE}
    largest = {False: FP32_MAX_TOLERANCE, True: FP16_MAX_TOLERANCE}
    stated = {False: tolerances.get("fp32"), True: tolerances.get("fp16")}
    limits = {fp16: min(largest[fp16], stated[fp16] or defaults[fp16]) for fp16 in (False, True)}
    limits = {fp16: max(limit, own_error) for fp16, limit in limits.items()}
    error = max((deviation.error / limits[deviation.fp16] for deviation in deviations), default=0.0)
    changed = max((deviation.changed for deviation in deviations), default=0.0)
    if outcome is Outcome.PASS:
        wrong = error > WRONG_FACTOR or changed > CHANGED_WRONG
        return Agreement.FALSE_PASS if wrong else Agreement.AGREES
    if error <= RIGHT_FACTOR and changed <= CHANGED_RIGHT:
        return Agreement.FALSE_REFUSAL
    return Agreement.AGREES if error > WRONG_FACTOR or changed > CHANGED_WRONG else Agreement.BETWEEN
