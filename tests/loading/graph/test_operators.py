"""Every test case of the onnx package for a single node, and FP64 against the reference evaluator on a sample."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from deploytool.errors import DeployError
from deploytool.loading.graph import element_types
from deploytool.loading.graph.interpreter import GraphModule
from deploytool.loading.module import fp64

NOT_COMPUTED = {  # pattern of a case: why it is not computed
    r"test_bernoulli.*": "draws random numbers",
    r"test_training_dropout_(default|mask|default_mask)": "drops random elements",
    r"test_training_dropout": "drops random elements",
    r"test_not_\dd": "has opset 1",
    r"test_scan_sum": "is a Scan of opset 8, over batches of sequences",
}
OTHER_RESULT = {  # pattern of a case: whose definition is followed instead
    r"test_resize_downsample_scales_(linear|cubic)_align_corners": "ONNX Runtime and PyTorch: the length of the result",
}
# rounding of FP16 and BF16 at every operator, which the interpreter does not do
ROUNDINGS = {np.dtype(np.float16): 4 * 2.0**-11, np.dtype("V2"): 4 * 2.0**-8}
BY_REFERENCE = {  # operators that torch has not: losses, strings, trees, optimisers, previews and rare types
    *("Adagrad", "Adam", "ArrayFeatureExtractor", "Binarizer", "BitCast", "Cast", "CastLike", "CausalConvWithState"),
    *("CenterCropPad", "Col2Im", "DeformConv", "Equal", "FlexAttention", "ImageDecoder", "LabelEncoder"),
    *("LinearAttention", "MelWeightMatrix", "Momentum", "NegativeLogLikelihoodLoss", "QuantizeLinear", "ReduceMax"),
    *("ReduceMin", "RegexFullMatch", "SoftmaxCrossEntropyLoss", "StringConcat", "StringNormalizer", "StringSplit"),
    *("SwiGLU", "TensorScatter", "TfIdfVectorizer", "TreeEnsemble", "Unique"),
}
FP64_SAMPLE = (
    r"test_(add|averagepool_2d_(pads|ceil|dilations.*)|basic_conv_with_padding|basic_deform_conv.*|batchnorm_example"
    r"|clip_example|conv_with_autopad_same|convtranspose(_pads|_output_shape|_dilations)?|cumsum_2d_axis_0|einsum_.*"
    r"|gather_0|gemm_all_attributes|globalaveragepool|gru_.*|hardsigmoid|instancenorm_example"
    r"|leakyrelu|logsoftmax_axis_1|lppool_2d_.*|lrn|lstm_.*|matmul_3d|maxpool_2d_(pads|ceil|dilations|same_upper)|mish|pow|prelu_broadcast"
    r"|reduce_(log_sum_exp|l2|mean|sum)_.*random|rnn_seq_length|roialign_.*|rotary_embedding.*"
    r"|sigmoid|simple_rnn_.*|softmax_axis_1|softplus|softsign|tanh|where_example|attention_(3d|4d)(_.*)?)"
)


@dataclass(frozen=True)
class Case:
    """A graph of one node, or of a function's nodes, with inputs and expected outputs."""

    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]
    tolerance: float


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        from onnx.backend.test.case.node import collect_testcases

        collected = collect_testcases(None)
    found = []
    for case in collected:
        assert case.model is not None
        for inputs, outputs in case.data_sets or ():
            found.append(Case(case.name, case.model, [*map(array, inputs)], [*map(array, outputs)], case.rtol))
    assert len(found) > 1800
    return found


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def array(value: Any) -> Any:
    if isinstance(value, list):
        return [array(item) for item in value]
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def tensor(value: Any) -> Any:
    if isinstance(value, list):
        return [tensor(item) for item in value]
    if value is None or (value.ndim == 0 and value.dtype == object and value.item() is None):
        return None
    return torch.from_numpy(value.copy()) if value.dtype == np.float16 else element_types.to_torch(value)


def problem(result: Any, expected: Any, tolerance: float) -> str:
    """How a result differs from the expected one; empty if it does not."""
    if isinstance(expected, list):
        pairs = zip(result, expected, strict=True)
        return "; ".join(found for pair in pairs if (found := problem(*pair, tolerance)))
    if result is None:
        return "" if expected.item() is None else "no value"
    got = result.float().numpy() if getattr(result, "dtype", None) == torch.bfloat16 else np.asarray(result)
    if got.shape != expected.shape:
        return f"shape {got.shape}, not {expected.shape}"
    if expected.dtype.kind in "OSU":
        return "" if (got.astype(object) == expected.astype(object)).all() else "other strings"
    narrow = np.dtype("V2") if expected.dtype.name == "bfloat16" else expected.dtype
    if expected.dtype.kind == "V" or expected.dtype.name.startswith(("float8", "float4")):
        got, expected = got.astype(np.float32), expected.astype(np.float32)
    elif got.dtype != expected.dtype and expected.dtype.name not in ("int4", "uint4", "int2", "uint2"):
        return f"dtype {got.dtype}, not {expected.dtype}"
    finite = np.abs(expected[np.isfinite(expected)], dtype=np.float64) if expected.dtype.kind in "fc" else np.zeros(1)
    smallest = max(1e-7, 1e-6 * finite.max(initial=0))  # rounding errors are relative to the largest value
    close = np.allclose(got, expected, max(tolerance, ROUNDINGS.get(narrow, 0)), smallest, equal_nan=True)
    return "" if close else f"{got.ravel()[:4]}, not {expected.ravel()[:4]}"


def outputs(model: onnx.ModelProto, inputs: Sequence[Any], used: Counter[str]) -> list[Any]:
    module = GraphModule(model)
    results = list(module(*map(tensor, inputs)).values())
    used.update(module.reference_operators())
    return results


def test_every_case_of_onnx_is_computed_or_refused(cases: list[Case]) -> None:
    failures, refused, used = dict[str, str](), set[str](), Counter[str]()
    for case in cases:
        expected_refusal = any(re.fullmatch(pattern, case.name) for pattern in NOT_COMPUTED)
        try:
            found = problem(outputs(case.model, case.inputs, used), case.outputs, case.tolerance)
        except DeployError as error:
            refused.add(case.name)
            found = "" if expected_refusal else str(error)
        else:
            listed = expected_refusal or any(re.fullmatch(pattern, case.name) for pattern in OTHER_RESULT)
            found = ("" if found and not expected_refusal else "passes, though listed") if listed else found
        if found:
            failures[case.name] = found
    assert not failures
    assert all(any(re.fullmatch(pattern, name) for name in refused) for pattern in NOT_COMPUTED)
    assert set(used) == BY_REFERENCE


def widened(value: Any) -> Any:
    if isinstance(value, list):
        return [widened(item) for item in value]
    return value.astype(np.float64) if value.dtype == np.float32 else value


def test_fp64_is_fp64_in_every_operator(cases: list[Case]) -> None:
    checked, failures = 0, dict[str, str]()
    for case in cases:
        narrow = any(
            isinstance(value, list) or value.dtype == np.float16 or value.dtype.kind == "V" for value in case.inputs
        )
        if not re.fullmatch(FP64_SAMPLE, case.name) or case.name.endswith("_expanded") or narrow:
            continue
        inputs = [*map(widened, case.inputs)]
        names = [value.name for value in case.model.graph.input]
        reference: Any = ReferenceEvaluator(case.model).run(None, dict(zip(names, inputs, strict=True)))
        module = GraphModule(case.model)
        with fp64.run(module):
            results = list(module(*map(tensor, inputs)).values())
        for result, expected in zip(results, reference, strict=True):
            if expected.dtype == np.float64:
                checked += 1
                wrong = result.dtype != torch.float64 or not np.allclose(result.numpy(), expected, 1e-9, 1e-11)
                failures |= {case.name: f"{result.dtype} {result.numpy().ravel()[:3]}"} if wrong else {}
    assert not failures
    assert checked > 150
