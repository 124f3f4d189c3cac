"""OpenVINO: its errors in one line, its names, shapes and settings, and that it stays on this machine."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from deploytool.backends import int8_emulation, openvino
from deploytool.backends.session import Array
from deploytool.errors import MissingBackend, StageFailed
from deploytool.host import machine
from deploytool.precision.int8 import executed
from tests.int8 import kernels, quantized
from tests.int8.quantized import Form

pytest.importorskip("openvino")

RELU = "g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }"
ROW = np.array([[-1.0, 2.0]], np.float32)


def graph(text: str) -> bytes:
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18, "foreign" : 1]> {text}')
    return bytes(parsed.SerializeToString())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage", "OpenVINO cannot load the graph: Unable to read the model"),
        (graph("g (float[N,2] x) => (float[N,2] y) { y = foreign.Bar(x) }"), "No conversion rule found .* foreign.Bar"),
    ],
)
def test_a_graph_that_is_not_loaded_is_an_error_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(StageFailed, match=message) as caught, openvino.start(content):
        pass
    assert "\n" not in str(caught.value)
    assert "src/" not in str(caught.value)


def test_an_invalid_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(StageFailed, match=r"cannot load .*model\.onnx: "), openvino.start(tmp_path / "model.onnx"):
        pass


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": ROW.astype(np.int64)}, r"x \(1, 2\): x is int64 .* takes float32"),
        ({"x": np.zeros((1, 3), np.float32)}, r"x is float32 \(1, 3\), and the graph takes float32 \[\?,2\]"),
        ({"y": ROW}, "the graph takes x, not y"),
    ],
)
def test_inputs_of_another_kind_are_refused(inputs: dict[str, Array], message: str) -> None:
    with openvino.start(graph(RELU)) as session, pytest.raises(StageFailed, match=message):
        session(**inputs)


def test_a_failure_while_it_runs_names_the_shapes() -> None:
    reshape = graph("g (float[N,2] x) => (float[N,M] y) <int64[2] s = {3,5}> { y = Reshape(x, s) }")
    with openvino.start(reshape) as session, pytest.raises(StageFailed, match=r"fails on x \(1, 2\): .*[Rr]eshape"):
        session(x=ROW)


def test_outputs_keep_their_names_order_and_types_where_nodes_are_merged() -> None:
    text = """g (float[N,2] x) => (float[N,2] z, float[N,2] y, bool[N,2] b, int64[N] m)
        { r = Relu(x)  z = Identity(r)  y = Identity(x)  b = IsNaN(x)  m = ArgMax<axis=1, keepdims=0>(x) }"""
    with openvino.start(graph(text)) as session:
        outputs = session(x=ROW)
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "z": [[0.0, 2.0]],
        "y": [[-1.0, 2.0]],
        "b": [[False, False]],
        "m": [1],
    }
    assert [array.dtype for array in outputs.values()] == [np.float32, np.float32, np.bool_, np.int64]


def test_outputs_are_the_callers_and_any_layout_is_taken() -> None:
    array = np.arange(-4, 4, dtype=np.float32).reshape(2, 4)
    frozen = np.broadcast_to(ROW, (3, 2))
    with openvino.start(graph(RELU)) as session:
        first = session(x=array.T)["y"]
        assert session(x=frozen)["y"].tolist() == [[0.0, 2.0]] * 3
        assert first.tolist() == np.maximum(array.T, 0).tolist()


def test_more_batch_sizes_than_are_compiled_give_the_same_outputs() -> None:
    with openvino.start(graph(RELU)) as session:
        for size in range(1, openvino.MAX_STATIC_SHAPES + 4):
            array = np.arange(-size, size, dtype=np.float32).reshape(size, 2)
            assert session(x=array)["y"].tolist() == np.maximum(array, 0).tolist()


def test_a_graph_with_a_fixed_batch_takes_any_batch() -> None:
    array = np.arange(-5, 5, dtype=np.float32).reshape(5, 2)
    with openvino.start(graph(RELU.replace("N", "2"))) as session:
        assert session(x=array)["y"].tolist() == np.maximum(array, 0).tolist()


def test_a_session_serves_several_threads() -> None:
    arrays = [np.full((1 + number % 5, 2), number, np.float32) for number in range(40)]
    with openvino.start(graph(RELU), threads=1) as session, ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda array: session(x=array)["y"], arrays))
    assert [output.tolist() for output in outputs] == [array.tolist() for array in arrays]


def test_precision_is_pinned_and_threads_are_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for threads, expected in ((0, 1), (2, 2)):
        models = openvino._Models(graph(RELU), threads)
        assert models._settings["INFERENCE_PRECISION_HINT"] == "f32"  # a processor without BF16 has no other anyway
        compiled = models._dynamic.get_compiled_model()
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
        assert compiled.get_property("EXECUTION_MODE_HINT").name == "ACCURACY"
        assert compiled.get_property("INFERENCE_NUM_THREADS") == expected


def test_products_of_int8_are_exact() -> None:
    text = """g (float[N,8] x) => (float[N,4] y) <float one = {1}, int8 zero = {0}, int8[8,4] table> {
        q = QuantizeLinear(x, one, zero)  d = DequantizeLinear(q, one, zero)
        w = DequantizeLinear(table, one, zero)  y = MatMul(d, w) }"""
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {text}')
    del parsed.graph.value_info[:]
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.full((8, 4), 127, np.int8), "table"))
    with openvino.start(parsed.SerializeToString()) as session:
        outputs = session(x=np.full((2, 8), 127, np.float32))
    np.testing.assert_array_equal(outputs["y"], np.full((2, 4), 8 * 127 * 127, np.float32))


def test_importing_it_leaves_its_telemetry_out() -> None:
    code = "import sys; from deploytool.backends import openvino; openvino.library(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "openvino.runtime" in done.stdout or "openvino._pyopenvino" in done.stdout
    assert not [name for name in done.stdout.split() if name.startswith("openvino_telemetry")]


def test_a_library_that_cannot_be_imported_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino.library.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingBackend, match="OpenVINO cannot be imported") as caught, openvino.start(graph(RELU)):
        pass
    assert "deploytool[openvino]" in caught.value.remedy


@pytest.mark.parametrize(("largest", "int8"), [(64, True), (65, False)])
def test_sums_that_saturate_are_not_computed_by_int8_kernels(
    largest: int, int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors without VNNI; the kernels give the same where weights have 7 bits."""
    monkeypatch.setattr(machine, "saturates_int8", lambda: True)
    model = quantized.quantised(kernels.layer("convolution", 0), tmp_path, Form.U8S7)
    loaded = onnx.load(model)
    (weight,) = (each for each in loaded.graph.initializer if len(each.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = largest
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(loaded, model)
    assert bool(executed.in_openvino(openvino.runtime_model(model))) is int8
    images = quantized.pictures(0, 4, kernels.CHANNELS)
    with openvino.start(model) as session, int8_emulation.start(model) as exact:
        got, expected = (next(iter(run(image=images).values())) for run in (session, exact))
    assert np.abs(got - expected).max() <= 1.01 * kernels.step(model)


@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("counted", [0, 1])
def test_an_average_over_padding_is_that_of_the_graph(zero: int, counted: int) -> None:
    """OpenVINO's INT8 kernels pad with the integer 0, whatever the zero point: 72 steps of difference at 128."""
    model = graph(f"""g (float[N,8,9,9] x) => (float[N,8,5,5] y) <float step = {{0.05}}, uint8 zero = {{{zero}}}> {{
        q = QuantizeLinear(x, step, zero) d = DequantizeLinear(q, step, zero)
        p = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], count_include_pad = {counted}> (d)
        r = QuantizeLinear(p, step, zero) y = DequantizeLinear(r, step, zero) }}""")
    x = np.random.default_rng(0).standard_normal((2, 8, 9, 9)).astype(np.float32)
    with openvino.start(model) as session, int8_emulation.start(model) as exact:
        got, expected = (run(x=x)["y"] for run in (session, exact))
    assert np.abs(got - expected).max() <= 1.01 * 0.05
