"""Reads everything that a page shows from a run's folder: report, receipts, blame, benchmark, device results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploytool.benchmark import result
from deploytool.benchmark.result import Bench
from deploytool.data import golden
from deploytool.device.verify import Verification
from deploytool.errors import BadInput
from deploytool.host import side_files
from deploytool.report import device_results, sources
from deploytool.results import blame as results_blame
from deploytool.results import receipt, report, verdict
from deploytool.results.artifact import Kind
from deploytool.results.blame import Blame
from deploytool.results.receipt import Receipt
from deploytool.results.report import Report
from deploytool.results.verdict import Conclusion
from deploytool.spec import Stage


@dataclass(frozen=True)
class Origin:
    """Definition and weights of the source model; fields are empty or None if unknown."""

    factory: str = ""
    weights: str = ""
    sha256: str = ""
    parameters: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class RunData:
    """The content of a run's folder; `blame` and `bench` are None if missing or made from other files.

    `devices` are the results from devices that ran the bundle. `home` is the final path of the run, and `folder` is
    where its files are until they are moved there.
    """

    home: Path
    report: Report
    conclusion: Conclusion
    receipts: tuple[Receipt, ...]
    origin: Origin
    blame: Blame | None
    bench: Bench | None
    devices: tuple[Verification, ...] = ()
    folder: Path | None = None

    @property
    def location(self) -> Path:
        """The folder where the files of the run are now."""
        return self.folder or self.home

    @property
    def golden(self) -> Path:
        """The path of the golden data; the file may be missing."""
        return self.location / Stage.GOLDEN / Kind.GOLDEN.value

    def bytes_of(self, stage: str, file: str) -> int | None:
        """The size of an artifact in bytes, with the side file that a graph may have; None if the file is missing."""
        path = self.location / stage / file
        return side_files.total_size(path) if path.is_file() else None


def read(home: Path, final: Path | None = None) -> RunData:
    """The data of a run; raises BadInput if it has no report of this schema version.

    `final` is the path that the folder will be moved to, if it is not there yet.
    """
    written = report.read(sources.find(home))
    found = [receipt.read(path.parent) for path in home.glob(f"*/{receipt.FILE}")]
    receipts = tuple(record for record in found if record is not None)
    blame = results_blame.read(home)
    conclusion = verdict.conclude(written, final or home, blame.finding if blame else None)
    return RunData(
        final or home,
        written,
        conclusion,
        _in_order(receipts),
        _origin(receipts),
        blame,
        result.read_matching(home),
        device_results.read(home),
        home if final else None,
    )


def pixels(run: RunData) -> golden.Pixels | None:
    """The golden images; None if there are none or the file is corrupt, so that the page is still drawn."""
    try:
        images = golden.pixels(run.golden)
    except BadInput:
        return None
    return images if images.size else None


def _in_order(receipts: tuple[Receipt, ...]) -> tuple[Receipt, ...]:
    """The receipts sorted so that each follows its parents."""
    ordered: list[Receipt] = []
    remaining = sorted(receipts, key=lambda record: (len(record.parents), record.made_by))
    stages = {record.made_by for record in receipts}
    while remaining:
        done = {record.made_by for record in ordered}
        ready = next((record for record in remaining if set(record.parents) & stages <= done), remaining[0])
        ordered.append(ready)
        remaining.remove(ready)
    return tuple(ordered)


def _origin(receipts: tuple[Receipt, ...]) -> Origin:
    load = next((record for record in receipts if record.kind is Kind.WEIGHTS), None)
    if load is None:
        return Origin()
    model = load.notes.get("model")
    definition = model if isinstance(model, dict) else {}
    parameters, macs = load.notes.get("parameters"), definition.get("macs")
    return Origin(
        factory=str(definition.get("factory", "")),
        weights=str(load.notes.get("weights", "")),
        sha256=load.weights or "",
        parameters=parameters if isinstance(parameters, int) else None,
        macs=macs if isinstance(macs, int) else None,
    )
