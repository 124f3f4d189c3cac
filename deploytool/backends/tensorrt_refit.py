"""Fills the weights of a graph into an engine that was built without them."""

from __future__ import annotations

from typing import Any

from deploytool.errors import StageFailed

_REMEDY = "export again without --strip-weights"


def refit(trt: Any, engine: Any, logger: Any, graph: bytes) -> None:
    """Fills the weights of a serialized ONNX graph into the engine that was built from it.

    Raises StageFailed if the engine takes no weights, if the graph is another one, or if a weight is missing.
    """
    try:
        refitter = trt.Refitter(engine, logger)
    except TypeError as error:  # the binding of TensorRT, for an engine that cannot be refitted
        raise StageFailed("the engine takes no weights", _REMEDY) from error
    parser_refitter = trt.OnnxParserRefitter(refitter, logger)
    if not parser_refitter.refit_from_bytes(graph):
        reason = parser_refitter.get_error(0).desc() if parser_refitter.num_errors else "no reason given"
        first = (reason.strip().splitlines() or ["no reason given"])[0]
        raise StageFailed(f"the engine does not take the weights of its graph: {first}", _REMEDY)
    if missing := refitter.get_missing_weights():
        raise StageFailed(f"the graph lacks {len(missing)} weights of the engine, such as {missing[0]}", _REMEDY)
    if not refitter.refit_cuda_engine():
        raise StageFailed("TensorRT could not fill in the weights of the engine", _REMEDY)
