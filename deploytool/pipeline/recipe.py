"""The stages of an export, in order."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from deploytool.spec import Options, Precision, SourceKind, Stage

_STAGES = tuple(stage for stage in Stage if stage is not Stage.PACK)
_OF_PRECISION: Mapping[Precision, tuple[Stage, ...]] = {
    Precision.BF16: (Stage.BF16,),
    Precision.INT8: (Stage.CALIBRATE, Stage.INT8),
    Precision.FP8: (Stage.CALIBRATE, Stage.FP8),
}  # the stages of those precisions that are made on request only
_ON_REQUEST = {Stage.METRIC, *(stage for stages in _OF_PRECISION.values() for stage in stages)}
PIPELINE = tuple(stage for stage in _STAGES if stage not in _ON_REQUEST)

ONNX, FP16 = ENDS = ("onnx", "fp16")  # the last file of the pipeline, unless engines are built
_ONLY_FOR_CODE = {Stage.TORCHSCRIPT}  # a given graph is no code that torch could trace
_BEYOND_ONNX = {Stage.TORCHSCRIPT, Stage.FP16, Stage.KNOWN_ISSUES, Stage.BUILD}


def recipe_for(
    options: Options,
    to: str = FP16,
    source: SourceKind = SourceKind.CODE,
    precisions: Collection[Precision] = (Precision.FP16,),
    *,
    quantised: bool = False,
) -> tuple[Stage, ...]:
    """The stages up to `to`, one of `ENDS`, and engines if there are any, without stages that have nothing to do.

    `precisions` are those of graphs beside FP32 and FP16. `quantised` says that the source has its own ranges for INT8.
    """
    idle = set(_BEYOND_ONNX) if to == ONNX else set[Stage]()
    idle |= _ONLY_FOR_CODE if source is SourceKind.GRAPH else set()
    idle |= {Stage.BUILD} if not options.engines else set()
    idle |= {Stage.FAULTS} if not options.faults else set()
    by_decisions = {Precision.INT8, Precision.FP8} & set(precisions)  # without a metric, by agreement with the source
    idle |= {Stage.METRIC} if not (options.metric or by_decisions) else set()
    idle |= {Stage.CALIBRATE} if quantised else set()
    wanted = {stage for precision, stages in _OF_PRECISION.items() for stage in stages if precision in precisions}
    idle |= {stage for stages in _OF_PRECISION.values() for stage in stages} - wanted
    return tuple(stage for stage in _STAGES if stage not in idle)
