"""Faults of tokens, positions, norms and activations, in the forms that exporters give them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from deploytool.backends.session import Array
from tests.faults.kinds.planting import answer, faults_of, graph_of, the_fault

RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((8, 6)).astype(np.float32)
X = RNG.standard_normal((3, 5, 6)).astype(np.float32)
TOKENS = "(float[N,5,6] x) => (float[N,5,6] y)"

POSITIONS: dict[str, tuple[str, dict[str, Array | int]]] = {
    "the whole table": ("y = Add(x, table)", {"table": TABLE[:5]}),
    "a slice of a table": (
        "t = Slice(table, start, end) y = Add(t, x)",
        {"start": np.array([0]), "end": np.array([5])},
    ),
    "rows by number": (
        "i = Range(zero, five, one) t = Gather(table, i) y = Add(x, t)",
        {"zero": 0, "one": 1, "five": 5},
    ),
}


@pytest.mark.parametrize("form", POSITIONS)
@pytest.mark.parametrize("by", [1, -1])
def test_positions_are_off_by_one(form: str, by: int) -> None:
    nodes, weights = POSITIONS[form]
    graph = graph_of(TOKENS, nodes, {"table": TABLE, **weights})
    table = np.asarray(weights.get("table", TABLE))
    got = answer(graph, {"x": X}, the_fault(graph, "position_shifted", "table", size=by))
    np.testing.assert_allclose(got, X + np.roll(table, by, 0)[:5], atol=1e-6)


@pytest.mark.parametrize(
    ("signature", "nodes", "weights"),
    [
        (TOKENS, "y = Add(x, bias)", {"bias": TABLE[0]}),
        ("(int64[N,5] x) => (float[N,5,6] y)", "t = Gather(table, x) y = Add(t, t)", {"table": TABLE}),
        ("(float[N,6] x) => (float[N,6] y)", "y = Add(x, bias)", {"bias": TABLE[:1]}),
    ],
    ids=["a bias", "a table of words", "a row"],
)
def test_other_additions_are_no_positions(signature: str, nodes: str, weights: dict[str, Array]) -> None:
    assert faults_of(graph_of(signature, nodes, weights), "position_shifted") == []


def test_equal_positions_have_no_order() -> None:
    graph = graph_of(TOKENS, "y = Add(x, table)", {"table": np.ones((5, 6))})
    assert all(fault.same for fault in faults_of(graph, "position_shifted"))


@pytest.mark.parametrize(("index", "other"), [(0, 1), (-1, 3), (4, 3), (2, 3)])
def test_the_summary_is_taken_from_a_neighbour(index: int, other: int) -> None:
    graph = graph_of("(float[N,5,6] x) => (float[N,6] y)", "y = Gather<axis=1>(x, i)", {"i": index})
    (fault,) = faults_of(graph, "token_dropped")
    np.testing.assert_array_equal(answer(graph, {"x": X}, fault), X[:, other])


def test_the_last_token_of_an_input_is_lost() -> None:
    graph = graph_of("(int64[N,5] ids) => (float[N,5,6] y)", "y = Gather(table, ids)", {"table": TABLE})
    ids = np.array([[0, 1, 2, 3, 4], [4, 5, 6, 7, 0]])
    (fault,) = faults_of(graph, "token_dropped")
    np.testing.assert_array_equal(answer(graph, {"ids": ids}, fault), TABLE[ids[:, [0, 1, 2, 3, 3]]])


NORMS = {
    "operator": "y = LayerNormalization<axis=-1, epsilon=0.000001>(x, scale)",
    "arithmetic": """m = ReduceMean(x, last) c = Sub(x, m) s = Pow(c, two) v = ReduceMean(s, last) e = Add(v, eps)
        r = Sqrt(e) n = Div(c, r) y = Mul(n, scale)""",
}


@pytest.mark.parametrize("form", NORMS)
def test_another_epsilon_gives_the_norm_with_it(form: str) -> None:
    weights = {"scale": np.ones(6), "last": np.array([-1]), "two": 2.0, "eps": 1e-6}
    graph = graph_of(TOKENS, NORMS[form], weights)
    found = {fault.size: fault for fault in faults_of(graph, "layer_norm_eps")}
    assert {size for size, fault in found.items() if fault.same} == {1e-6}
    for size in (1e-12, 1e-5, 1e-3, 1e-2):
        wanted = functional.layer_norm(torch.from_numpy(0.05 * X), (6,), eps=size).numpy()
        np.testing.assert_allclose(answer(graph, {"x": 0.05 * X}, found[size]), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("last", ["r = Sqrt(e) i = Reciprocal(r)", "i = Pow(e, power)"])
def test_another_epsilon_of_an_rms_norm(last: str) -> None:
    nodes = f"s = Pow(x, two) m = ReduceMean(s, last) e = Add(m, eps) {last} y = Mul(x, i)"
    graph = graph_of(TOKENS, nodes, {"last": np.array([-1]), "two": 2.0, "eps": 1e-6, "power": -0.5})
    wanted = functional.rms_norm(torch.from_numpy(X), (6,), eps=1e-2).numpy()
    got = answer(graph, {"x": X}, the_fault(graph, "layer_norm_eps", "e", size=1e-2))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_a_shared_epsilon_changes_in_one_norm_alone() -> None:
    """Exporters share equal constants."""
    nodes = "s = Mul(x, x) m = ReduceMean(s, last) a = Add(m, eps) b = Sqrt(a) n = ReduceMean(x, last) c = Add(n, eps)"
    graph = graph_of(TOKENS, f"{nodes} d = Sqrt(c) e = Mul(b, d) y = Mul(e, x)", {"last": np.array([-1]), "eps": 1e-6})
    copy = graph.copy()
    the_fault(graph, "layer_norm_eps", "a", size=1e-2).plant(copy)
    assert float(copy.weight("eps")) == np.float32(1e-6)


ERF = {
    "product last": "d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)",
    "half first": "d = Mul(x, inverse) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h)",
}
TANH = """p = Pow(x, three) c = Mul(cubic, p) s = Add(x, c) u = Mul(s, scale) e = Tanh(u) a = Add(e, one)
    h = Mul(half, a) y = Mul(x, h)"""
CONSTANTS = {"root": 2**0.5, "inverse": 0.5**0.5, "one": 1.0, "half": 0.5, "three": 3.0}
CONSTANTS |= {"cubic": 0.044715, "scale": (2 / np.pi) ** 0.5}


@pytest.mark.parametrize("form", ERF)
def test_gelu_by_tanh_and_by_a_sigmoid_for_erf(form: str) -> None:
    graph, x = graph_of(TOKENS, ERF[form], CONSTANTS), torch.from_numpy(2 * X)
    got = answer(graph, {"x": 2 * X}, the_fault(graph, "gelu_swapped", "by tanh"))
    np.testing.assert_allclose(got, functional.gelu(x, approximate="tanh").numpy(), atol=1e-5)
    got = answer(graph, {"x": 2 * X}, the_fault(graph, "gelu_swapped", "quick"))
    np.testing.assert_allclose(got, (x * torch.sigmoid(1.702 * x)).numpy(), atol=1e-5)


def test_gelu_by_erf_for_tanh() -> None:
    graph = graph_of(TOKENS, TANH, CONSTANTS)
    (fault,) = faults_of(graph, "gelu_swapped")
    np.testing.assert_allclose(answer(graph, {"x": X}, fault), functional.gelu(torch.from_numpy(X)).numpy(), atol=1e-5)


def test_another_tanh_is_no_gelu() -> None:
    for nodes in ("y = Tanh(x)", "u = Mul(x, scale) y = Tanh(u)", "s = Add(x, x) u = Mul(s, scale) y = Tanh(u)"):
        assert faults_of(graph_of(TOKENS, nodes, CONSTANTS), "gelu_swapped") == []


@pytest.mark.parametrize(("formula", "other"), [("none", "tanh"), ("tanh", "none")])
def test_the_formula_of_the_operator_is_swapped(formula: str, other: str) -> None:
    graph = graph_of(TOKENS, f'y = Gelu<approximate="{formula}">(x)', {})
    (fault,) = faults_of(graph, "gelu_swapped")
    wanted = functional.gelu(torch.from_numpy(X), approximate=other).numpy()
    np.testing.assert_allclose(answer(graph, {"x": X}, fault), wanted, atol=1e-5)


ANGLES = np.arange(5)[:, None] * np.array([1.0, 0.3, 0.1] * 2, np.float32)
ROTATE = "a, b = Split<axis=-1, num_outputs=2>(x) n = Neg(b) r = Concat<axis=-1>(n, a) "
ROTATED = np.concatenate([-X[..., 3:], X[..., :3]], -1)
ROTARY = {
    "tables": (
        "p = Mul(x, cosines) q = Mul(r, sines) y = Add(p, q)",
        {"cosines": np.cos(ANGLES), "sines": np.sin(ANGLES)},
    ),
    "sines first": (
        "p = Mul(sines, r) q = Mul(x, cosines) y = Add(p, q)",
        {"cosines": np.cos(ANGLES), "sines": np.sin(ANGLES)},
    ),
    "computed": (
        "c = Cos(angles) s = Sin(angles) u = Unsqueeze(c, first) p = Mul(x, u) q = Mul(r, s) y = Add(p, q)",
        {"angles": ANGLES, "first": np.array([0])},
    ),
}


@pytest.mark.parametrize("form", ROTARY)
def test_rotary_positions_swapped_and_turned_the_wrong_way(form: str) -> None:
    nodes, weights = ROTARY[form]
    graph = graph_of(TOKENS, ROTATE + nodes, weights)
    cosines, sines = np.cos(ANGLES), np.sin(ANGLES)
    np.testing.assert_allclose(answer(graph, {"x": X}), X * cosines + ROTATED * sines, atol=1e-5)
    got = answer(graph, {"x": X}, the_fault(graph, "rotary_swapped", "cosine and sine"))
    np.testing.assert_allclose(got, X * sines + ROTATED * cosines, atol=1e-5)
    got = answer(graph, {"x": X}, the_fault(graph, "rotary_swapped", "sign"))
    np.testing.assert_allclose(got, X * cosines - ROTATED * sines, atol=1e-5)


def test_other_sums_of_products_are_no_rotation() -> None:
    graph = graph_of(TOKENS, "p = Mul(x, a) q = Mul(x, b) y = Add(p, q)", {"a": TABLE[:5], "b": TABLE[1:6]})
    assert faults_of(graph, "rotary_swapped") == []


def test_cosine_and_sine_of_the_operator_are_swapped() -> None:
    """RotaryEmbedding of opset 23, which has one table column for each pair."""
    cosines, sines = np.cos(ANGLES[:, :3]), np.sin(ANGLES[:, :3])
    nodes = "u = Unsqueeze(x, one) r = RotaryEmbedding(u, cosines, sines, places) y = Squeeze(r, one)"
    weights = {"cosines": cosines, "sines": sines, "one": np.array([1]), "places": np.tile(np.arange(5), (3, 1))}
    graph = graph_of(TOKENS, nodes, weights, opset=23)
    cosines, sines = np.cos(ANGLES), np.sin(ANGLES)
    np.testing.assert_allclose(answer(graph, {"x": X}), X * cosines + ROTATED * sines, atol=1e-5)
    (fault,) = faults_of(graph, "rotary_swapped")
    np.testing.assert_allclose(answer(graph, {"x": X}, fault), X * sines + ROTATED * cosines, atol=1e-5)
