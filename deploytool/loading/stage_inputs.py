"""The inputs of a stage: the artifacts of earlier stages, with accessors that load their contents."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.data import golden
from deploytool.data.golden import Golden
from deploytool.errors import BadInput
from deploytool.loading import source_model
from deploytool.loading.source_model import SourceModel
from deploytool.results.artifact import BF16_NOISE, Artifact, Kind
from deploytool.spec import Precision


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

    def fp32_graph(self) -> Artifact:
        """The newest graph in FP32, from which those of other precisions are made."""
        return [graph for graph in self.chain(Kind.GRAPH) if graph.made_by.precision is Precision.FP32][-1]

    def golden(self) -> Golden:
        """The golden data, with its noise in BF16 if there is a BF16 graph; raises BadInput if a file is invalid."""
        sample = golden.read(self.latest(Kind.GOLDEN).path)
        for graph in self.chain(Kind.BF16_GRAPH):
            sample = golden.with_bf16(sample, graph.path.with_name(BF16_NOISE))
        return sample

    def source(self) -> SourceModel:
        """The source model; raises BadInput if the weights file contains no definition."""
        return source_model.read(self.latest(Kind.WEIGHTS).path)
