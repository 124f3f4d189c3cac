"""All that a page is made from: what a run's folder holds of its report, its receipts, blame, bench and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.benchmark import result
from deploytool.benchmark.result import Bench
from deploytool.data import golden
from deploytool.device.verify import Verification
from deploytool.errors import BadInput
from deploytool.report import device_results
from deploytool.results import blame as results_blame
from deploytool.results import receipt, report, verdict
from deploytool.results.artifact import Kind
from deploytool.results.blame import Blame
from deploytool.results.receipt import Receipt
from deploytool.results.report import Report
from deploytool.results.verdict import Conclusion
from deploytool.run_folder import publish
from deploytool.spec import Stage


@dataclass(frozen=True)
class Origin:
    """The definition and the weights that it all began with; empty or None where nothing says so."""

    factory: str = ""
    weights: str = ""
    sha256: str = ""
    parameters: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class RunData:
    """A run as it lies in its folder; `blame` and `bench` are None unless somebody made them, of these very files.

    `devices` is what came back from those that ran its bundle. `home` is what the run's folder is called, and `folder`
    where it lies, if that is still another place.
    """

    home: Path
    report: Report
    closing: Conclusion
    receipts: tuple[Receipt, ...]
    origin: Origin
    blame: Blame | None
    bench: Bench | None
    devices: tuple[Verification, ...] = ()
    folder: Path | None = None

    @property
    def place(self) -> Path:
        """Where the files of the run lie."""
        return self.folder or self.home

    @property
    def golden(self) -> Path:
        """The golden sample, where the folder holds it."""
        return self.place / Stage.GOLDEN / Kind.GOLDEN.value

    def bytes_of(self, stage: str, file: str) -> int | None:
        """The size of an artifact, None where it is missing."""
        path = self.place / stage / file
        return path.stat().st_size if path.is_file() else None


def find(home: Path) -> Path:
    """The report in a run's folder, or in any other that carries one; raises BadInput where there is none."""
    publish.recover(home)
    for path in (home / Stage.VALIDATE / Kind.REPORT.value, home / Kind.REPORT.value):
        if path.is_file():
            return path
    raise BadInput(f"{home} holds no report", "give a folder that `deploytool export` made")


def read(home: Path, named: Path | None = None) -> RunData:
    """Everything there is to show of a run; raises BadInput if it holds no report of this version.

    `named` is what its folder will be called, if that is not where it lies yet.
    """
    written = report.read(find(home))
    sealed = [receipt.read(path.parent) for path in home.glob(f"*/{receipt.FILE}")]
    receipts = tuple(each for each in sealed if each is not None)
    blame = results_blame.read(home)
    closing = verdict.conclude(written, named or home, blame.finding if blame else None)
    return RunData(
        named or home,
        written,
        closing,
        _ordered(receipts),
        _origin(receipts),
        blame,
        result.read_matching(home),
        device_results.read(home),
        home if named else None,
    )


def sources(home: Path, named: Path | None = None) -> str:
    """One digest of all that a page of this run is made from; `named` is as for `read`."""
    left = (home / results_blame.FILE, home / result.FILE, *device_results.kept(home))
    beside = (*left, *home.glob(f"*/{receipt.FILE}"))
    read_ = [path for path in (find(home), *sorted(beside)) if path.is_file()]
    return serde.digest(
        str(named or home), {path.relative_to(home).as_posix(): serde.file_digest(path) for path in read_}
    )


def pixels(facts: RunData) -> golden.Pixels | None:
    """The golden images, None where there are none or their file is spoiled: the page of a run outlives it."""
    try:
        found = golden.pixels(facts.golden)
    except BadInput:
        return None
    return found if found.size else None


def _ordered(receipts: tuple[Receipt, ...]) -> tuple[Receipt, ...]:
    """The receipts, each behind those of what it was made from."""
    done: list[Receipt] = []
    left = sorted(receipts, key=lambda each: (len(each.parents), each.made_by))
    names = {each.made_by for each in receipts}
    while left:
        known = {each.made_by for each in done}
        ready = next((each for each in left if set(each.parents) & names <= known), left[0])
        done.append(ready)
        left.remove(ready)
    return tuple(done)


def _origin(receipts: tuple[Receipt, ...]) -> Origin:
    begin = next((each for each in receipts if each.kind is Kind.WEIGHTS), None)
    if begin is None:
        return Origin()
    notes = begin.notes
    model = notes.get("model")
    described = model if isinstance(model, dict) else {}
    parameters, macs = notes.get("parameters"), described.get("macs")
    return Origin(
        factory=str(described.get("factory", "")),
        weights=str(notes.get("weights", "")),
        sha256=begin.weights or "",
        parameters=parameters if isinstance(parameters, int) else None,
        macs=macs if isinstance(macs, int) else None,
    )
