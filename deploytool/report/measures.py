"""The user's metric on the page of a run: a row for each artifact, and the images on which artifacts differ most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.data import images
from deploytool.errors import BadInput
from deploytool.report import rows, thumbnails
from deploytool.report.run_data import RunData
from deploytool.results import measure_lines
from deploytool.results.measure import Inferiority, Measures
from deploytool.spec import Stage

_SIDE = 480  # pixels of a picture in the page


@dataclass(frozen=True)
class MeasureRow:
    """A row of the table; neither worse nor open means `not worse`."""

    name: str
    value: str
    difference: str
    verdict: str
    is_worse: bool
    is_open: bool


@dataclass(frozen=True)
class HardPicture:
    """An image with the figures of source and artifact; `uri` is empty where nothing was drawn."""

    name: str
    artifact: str
    score: str
    source: str
    uri: str


def measure_rows(measures: Measures) -> Iterator[MeasureRow]:
    """A row for each artifact."""
    for row in measure_lines.rows(measures):
        verdict = row.artifact.measure.verdict if row.artifact.measure else Inferiority.NOT_DECIDED
        is_worse, is_open = verdict is Inferiority.WORSE, verdict is Inferiority.NOT_DECIDED
        yield MeasureRow(rows.label(row.artifact), row.value, row.difference, row.verdict, is_worse, is_open)


def hardest(run: RunData) -> Iterator[HardPicture]:
    """The images on which an artifact differs most from the source."""
    for image in run.report.measures.hardest if run.report.measures else ():
        uri = ""
        if image.picture:
            try:
                uri = thumbnails.data_uri(images.read(run.location / Stage.METRIC / image.picture), _SIDE)
            except BadInput:  # a run that was copied in part
                uri = ""
        yield HardPicture(image.image, image.artifact, f"{image.score:.4g}", f"{image.source:.4g}", uri)
