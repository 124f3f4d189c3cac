"""Data types of what quantisation does to each tensor: the share of values clipped, and the noise."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.spec import StrEnum


class TensorKind(StrEnum):
    """Whether a quantised tensor depends on the inputs."""

    ACTIVATION = "activation"
    WEIGHT = "weight"


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor of the source that a graph quantises, with the node that produces it, or for a weight reads it.

    `clipped` is the share of its values in the source that are beyond the integers by more than one step. `own_db` is
    the ratio of its power in the source to that of the error of its own quantisation, and `noise_db` to that of its
    whole error, with what earlier layers add; both in dB, and None without any error.
    """

    tensor: str
    node: str
    operator: str
    kind: TensorKind
    clipped: float
    own_db: float | None
    noise_db: float | None
