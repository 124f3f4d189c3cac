"""The stages of an export, in order."""

from __future__ import annotations

from deploytool.spec import Options, SourceKind, Stage

_STAGES = tuple(stage for stage in Stage if stage is not Stage.PACK)
PIPELINE = tuple(stage for stage in _STAGES if stage is not Stage.METRIC)  # of an export without a metric

ONNX, FP16 = ENDS = ("onnx", "fp16")  # the last file of the pipeline, unless engines are built
_ONLY_FOR_CODE = {Stage.TORCHSCRIPT}  # a given graph is no code that torch could trace
_BEYOND_ONNX = {Stage.TORCHSCRIPT, Stage.FP16, Stage.KNOWN_ISSUES, Stage.BUILD}


def recipe_for(options: Options, to: str = FP16, source: SourceKind = SourceKind.CODE) -> tuple[Stage, ...]:
    """The stages up to `to`, one of `ENDS`, and engines if there are any, without stages that have nothing to do."""
    idle = set(_BEYOND_ONNX) if to == ONNX else set[Stage]()
    idle |= _ONLY_FOR_CODE if source is SourceKind.GRAPH else set()
    idle |= {Stage.BUILD} if not options.engines else set()
    idle |= {Stage.FAULTS} if not options.faults else set()
    idle |= {Stage.METRIC} if not options.metric else set()
    return tuple(stage for stage in _STAGES if stage not in idle)
