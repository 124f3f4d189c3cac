"""One cell of the sweep: what the product says of an export, and what the truth says of its files."""

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

FP32_MOST, FP16_MOST = 1e-3, 1e-2  # no tolerance is believed beyond these
FP32_LEAST, FP16_LEAST = 1e-5, 5e-3  # where the product names none, because it refused before it had one
BEYOND, WITHIN = 4.0, 0.5  # times a tolerance: surely wrong, and surely right
MOVED_RIGHT, MOVED_WRONG = 0.02, 0.08  # shares of an integer output that differ, at ties and beyond


class Outcome(Enum):
    """What the product said."""

    PASS = "pass"
    FAIL = "fail"  # a run that does not hold
    REFUSED = "refused"  # no run came of it
    UNCLEAR = "traceback"  # anything but one line
    LATE = "too late"


class Agreement(Enum):
    """How that fits the truth."""

    AGREES = "agrees"
    FALSE_PASS = "false pass"
    FALSE_REFUSAL = "false refusal"
    UNCLEAR = "traceback"
    BETWEEN = "between"  # refused, and neither surely right nor surely wrong


@dataclass(frozen=True)
class Result:
    """A cell with everything that is told of it."""

    name: str
    outcome: str
    agreement: str
    said: str
    seconds: float
    fp32: float = 0.0
    fp16: float = 0.0
    tolerated: dict[str, float] = field(default_factory=dict)
    worst: str = ""
    moved: float = 0.0


def measured(cell: Cell, folder: Path) -> Result:
    """Exports, judges, and compares both."""
    start = time.perf_counter()
    run_folder = folder / cell.name.replace("/", "_")
    shutil.rmtree(run_folder, ignore_errors=True)
    outcome, said, tolerated = _told(cell, run_folder)
    seconds = time.perf_counter() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own, found = _truth(cell, run_folder, outcome)
    agreement = agrees(cell.net.expected, outcome, own, found, tolerated)
    fp32, fp16 = (max([0.0, *(each.error for each in found if each.half is half)]) for half in (False, True))
    worst = max(found, key=lambda each: each.error, default=None)
    where = f"{Path(worst.file).parent.name}: {worst.where or worst.fault}" if worst else ""
    moved = max([0.0, *(each.moved for each in found)])
    shutil.rmtree(run_folder, ignore_errors=True)
    seconds, told = round(seconds, 2), (outcome.value, agreement.value, said)
    return Result(cell.name, *told, seconds, fp32, fp16, tolerated, where, moved)


def _told(cell: Cell, folder: Path) -> tuple[Outcome, str, dict[str, float]]:
    inputs = [Tensor(each.name, (BATCH, *each.shape), each.dtype, each.below) for each in cell.net.fed(cell.size)]
    try:
        run = deploytool.export(
            f"{cell.net.path}:{cell.net.factory}",
            inputs=inputs,
            arguments={"size": cell.size, "seed": cell.seed},
            exporter=cell.exporter,
            quick=True,
            out=folder,
        )
    except DeployError as refusal:
        said = f"{refusal} -> {refusal.remedy}"
        return (Outcome.UNCLEAR if "\n" in said else Outcome.REFUSED), said[:500], {}
    except BaseException as failure:
        if isinstance(failure, KeyboardInterrupt):
            raise
        return Outcome.UNCLEAR, "".join(traceback.format_exception(failure))[-1500:], {}
    tolerated = verdict.largest_tolerances(run.report)
    if run.error is not None:
        broken = "; ".join(verdict.failed_lines(run.report))
        return Outcome.FAIL, f"{run.error} [{broken}]"[:500], tolerated
    return Outcome.PASS, "", tolerated


def _truth(cell: Cell, folder: Path, outcome: Outcome) -> tuple[float, list[truth.Found]]:
    """FP32's own error, and what is true of the files of a run; of a refused one, of what torch.onnx makes of it."""
    build = functools.partial(truth.network, cell.net.path, cell.net.factory, cell.size, cell.seed)
    inputs = truth.feeds(cell.net.fed(cell.size), cell.seed)
    if cell.net.decides:  # at the edge everything ties
        inputs = {name: inputs[name] for name in ("fresh", "fresh again")}
    files = sorted(folder.glob("*/*.onnx"))
    try:
        exact = build()
        wanted = truth.expected(exact, inputs)
        others = truth.nearby(exact, inputs, cell.net.decides) if cell.net.decides else []
    except Exception as failure:
        return 0.0, [truth.Found("eager", False, np.inf, "", 0.0, f"{type(failure).__name__}: {failure}"[:200])]
    own = max(truth.eager(build(), inputs, wanted).error, truth.jittered(exact, inputs, wanted))
    if not files and outcome is not Outcome.PASS:
        folder.mkdir(parents=True, exist_ok=True)
        plain = folder / "plain.onnx"
        fault = truth.exported(build(), inputs, cell.exporter, plain)
        if fault:
            return own, [truth.Found(f"{folder}/plain/x", False, np.inf, "", 0.0, fault)]
        files = [plain]
    return own, [truth.judge(file, inputs, wanted, others) for file in files]


def agrees(
    expected: Expected, outcome: Outcome, own: float, found: list[truth.Found], tolerated: dict[str, float]
) -> Agreement:
    """Whether what was said is true; `own` is the error that FP32 itself makes."""
    if outcome in (Outcome.UNCLEAR, Outcome.LATE):
        return Agreement.UNCLEAR
    if expected is Expected.REFUSED:
        return Agreement.FALSE_PASS if outcome is Outcome.PASS else Agreement.AGREES
    least = {False: FP32_LEAST, True: FP16_LEAST}
    most = {False: FP32_MOST, True: FP16_MOST}
    named = {False: tolerated.get("fp32"), True: tolerated.get("fp16")}
    limits = {half: min(most[half], named[half] or least[half]) for half in (False, True)}
    limits = {half: max(limit, own) for half, limit in limits.items()}
    beyond = max((each.error / limits[each.half] for each in found), default=0.0)
    moved = max((each.moved for each in found), default=0.0)
    if outcome is Outcome.PASS:
        wrong = beyond > BEYOND or moved > MOVED_WRONG
        return Agreement.FALSE_PASS if wrong else Agreement.AGREES
    if beyond <= WITHIN and moved <= MOVED_RIGHT:
        return Agreement.FALSE_REFUSAL
    return Agreement.AGREES if beyond > BEYOND or moved > MOVED_WRONG else Agreement.BETWEEN
