"""The inputs of a stage: the artifacts of earlier stages, with accessors that load their contents."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.data import golden
from deploytool.data.golden import Golden
from deploytool.errors import BadInput
from deploytool.loading import source_model
from deploytool.loading.source_model import SourceModel
from deploytool.results.artifact import Artifact, Kind


@dataclass(frozen=True)
class StageInputs:
    """The artifacts of the kinds that a stage takes, oldest first."""

    artifacts: tuple[Artifact, ...]

    def chain(self, kind: Kind) -> tuple[Artifact, ...]:
        """Every artifact of one kind, oldest first."""
        return tuple(artifact for artifact in self.artifacts if artifact.kind is kind)

    def latest(self, kind: Kind) -> Artifact:
        """The newest artifact of one kind, which the next stage processes."""
        chain = self.chain(kind)
        if not chain:
            raise BadInput(f"the run contains no {kind.value}", "export again")
        return chain[-1]

    def golden(self) -> Golden:
        """The golden data; raises BadInput if its file is invalid."""
        return golden.read(self.latest(Kind.GOLDEN).path)

    def source(self) -> SourceModel:
        """The source model; raises BadInput if the weights file contains no definition."""
        return source_model.read(self.latest(Kind.WEIGHTS).path)
