"""Data types of the user's own measure: its value for an artifact and for the source, and the verdict on both."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.results import runners
from deploytool.results.artifact import VARIANTS
from deploytool.spec import Stage, Status, StrEnum, Task

AGREEMENT = "agreement"  # the metric where neither labels nor a metric are given: with the decisions of the source


class Inferiority(StrEnum):
    """Whether an artifact is worse than its source by more than the margin."""

    NOT_WORSE = "not worse"
    WORSE = "worse"
    NOT_DECIDED = "not decided"


@dataclass(frozen=True)
class Difference:
    """What an artifact's value is above that of the source, with the 95 % interval [`low`, `high`]; paired by image."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure:
    """The metric of one artifact against the source on the same images.

    `images` is their number. `more` is about how many further images a decision takes, None if it is decided or if no
    number of images would decide it.
    """

    artifact: float
    source: float
    images: int
    difference: Difference
    verdict: Inferiority
    more: int | None = None


@dataclass(frozen=True)
class MeasuredArtifact:
    """An artifact with its measure; without one if it did not run here, for `reason`."""

    stage: Stage
    file: str
    runner: str
    device: str
    status: Status
    measure: Measure | None = None
    reason: str = ""

    @property
    def label(self) -> str:
        """The stage, with the runner if the graph is run in several ways; a variant of the graph by its file."""
        if self.file in VARIANTS:
            return runners.artifact(self.stage, self.file, self.runner)
        return runners.label(self.stage, self.runner)


@dataclass(frozen=True)
class HardImage:
    """An image on which an artifact and the source differ; `picture` is a file in the folder of the stage, if drawn."""

    image: str
    artifact: str
    score: float
    source: float
    picture: str = ""


@dataclass(frozen=True)
class Measures:
    """The user's own measure of every artifact on the images of `data`.

    `metric` is its name, or the reference of the user's function; `margin` is by how much an artifact may be below the
    source, and `stated` says that the user set it. `source` is the value of the source in FP32. `hardest` are the
    images with the largest differences. `data` is empty if the images are the golden cases.
    """

    metric: str
    task: Task | None
    margin: float
    stated: bool
    data: str
    images: int
    source: float
    artifacts: tuple[MeasuredArtifact, ...]
    hardest: tuple[HardImage, ...] = ()

    @property
    def name(self) -> str:
        """The metric, without the path to the user's function."""
        return self.metric.rpartition(":")[2]
