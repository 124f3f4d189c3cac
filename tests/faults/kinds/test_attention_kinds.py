"""Faults of attention, in the forms that exporters give it; numpy computes what a model with the fault answers."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.backends.session import Array
from deploytool.faults.kinds.graph import FaultGraph
from tests.faults.kinds.planting import answer, faults_of, graph_of, the_fault

RNG = np.random.default_rng(0)
CASES, HEADS, TOKENS, WIDTH = 3, 2, 5, 4
Q, K, V = (RNG.standard_normal((CASES, HEADS, TOKENS, WIDTH)).astype(np.float32) for _ in range(3))
VISIBLE = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 1, 1, 1, 0]])
LATER = np.triu(np.ones((TOKENS, TOKENS), bool), 1)
SCALE = 1 / np.sqrt(WIDTH)

SIDES = f"float[N,{HEADS},{TOKENS},{WIDTH}]"
SIGNATURE = f"({SIDES} q, {SIDES} k, {SIDES} v{{}}) => (float[N,{TOKENS},{HEADS * WIDTH}] y)"
MERGE = "o = MatMul(w, v) t = Transpose<perm=[0,2,1,3]>(o) y = Reshape(t, merged)"
SCORES = "kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) d = Div(s, root) "
WEIGHTS = {"root": WIDTH**0.5, "merged": np.array([-1, TOKENS, HEADS * WIDTH])}


def softmax(scores: Array, axis: int = -1) -> Array:
    raised = np.exp(scores - scores.max(axis, keepdims=True))
    shares: Array = raised / raised.sum(axis, keepdims=True)
    return shares


def attend(scores: Array, values: Array = V, axis: int = -1) -> Array:
    mixed: Array = softmax(scores, axis) @ values
    return mixed.transpose(0, 2, 1, 3).reshape(CASES, TOKENS, -1)


def scores(scale: float = SCALE) -> Array:
    return Q @ K.transpose(0, 1, 3, 2) * scale


def plain() -> FaultGraph:
    return graph_of(SIGNATURE.format(""), f"{SCORES} w = Softmax<axis=-1>(d) {MERGE}", WEIGHTS)


def padded() -> FaultGraph:
    """A mask of padding that becomes an addend, as in BERT."""
    mask = "u = Unsqueeze(mask, axes) f = Cast<to=1>(u) i = Sub(one, f) m = Mul(i, lowest) a = Add(d, m)"
    weights = {**WEIGHTS, "axes": np.array([1, 2]), "one": 1.0, "lowest": -65504.0}
    signature = SIGNATURE.format(f", int64[N,{TOKENS}] mask")
    return graph_of(signature, f"{SCORES} {mask} w = Softmax<axis=-1>(a) {MERGE}", weights)


def causal(form: str) -> FaultGraph:
    """A constant mask: an addend as in GPT, or a condition, which exporters keep as a Constant node, as in Llama."""
    if form == "added":
        hidden = np.where(LATER, -1e9, 0.0)
        return graph_of(
            SIGNATURE.format(""), f"{SCORES} a = Add(m, d) w = Softmax<axis=-1>(a) {MERGE}", {**WEIGHTS, "m": hidden}
        )
    nodes = f"{SCORES} a = Where(hidden, lowest, d) w = Softmax<axis=-1>(a) {MERGE}"
    return graph_of(SIGNATURE.format(""), nodes, {**WEIGHTS, "hidden": LATER, "lowest": -65504.0})


def inputs(graph: FaultGraph) -> dict[str, Array]:
    arrays = {"q": Q, "k": K, "v": V, "mask": VISIBLE}
    return {value.name: arrays[value.name] for value in graph.model.graph.input}


MASKED = {"padded": (padded, VISIBLE[:, None, None, :] == 0), "added": (lambda: causal("added"), LATER)}
MASKED["chosen"] = (lambda: causal("chosen"), LATER)


@pytest.mark.parametrize("form", MASKED)
def test_a_dropped_mask_hides_nothing(form: str) -> None:
    make, hidden = MASKED[form]
    graph = make()
    np.testing.assert_allclose(answer(graph, inputs(graph)), attend(np.where(hidden, -1e9, scores())), atol=1e-5)
    (fault,) = faults_of(graph, "mask_dropped")
    np.testing.assert_allclose(answer(graph, inputs(graph), fault), attend(scores()), atol=1e-5)


@pytest.mark.parametrize("form", MASKED)
def test_an_inverted_mask_hides_the_visible_keys(form: str) -> None:
    make, hidden = MASKED[form]
    graph = make()
    (fault,) = faults_of(graph, "mask_inverted")
    got, wanted = answer(graph, inputs(graph), fault), attend(np.where(hidden, scores(), -1e9))
    seen = np.broadcast_to(hidden, (CASES, HEADS, TOKENS, TOKENS))[:, 0].any(axis=2)  # queries that see a key
    np.testing.assert_allclose(got[seen], wanted[seen], atol=1e-5)


def test_masks_of_several_attentions_are_also_dropped_together() -> None:
    second = "s2 = MatMul(q, kt) a2 = Add(s2, m) w2 = Softmax<axis=-1>(a2) o2 = MatMul(w2, o) "
    merge = "t = Transpose<perm=[0,2,1,3]>(o2) y = Reshape(t, merged)"
    nodes = f"{SCORES} a = Add(d, m) w = Softmax<axis=-1>(a) o = MatMul(w, v) {second} {merge}"
    graph = graph_of(SIGNATURE.format(""), nodes, {**WEIGHTS, "m": np.where(LATER, -1e9, 0.0)})
    assert [len(faults_of(graph, family)) for family in ("mask_dropped", "mask_inverted")] == [3, 3]
    wanted = attend(scores(1.0), softmax(scores()) @ V)
    got = answer(graph, inputs(graph), the_fault(graph, "mask_dropped", "all masks"))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_bias_of_relative_positions_is_no_mask_and_is_shifted() -> None:
    bias = RNG.standard_normal((HEADS, TOKENS, TOKENS)).astype(np.float32)
    nodes = f"{SCORES} a = Add(d, bias) w = Softmax<axis=-1>(a) {MERGE}"
    graph = graph_of(SIGNATURE.format(""), nodes, {**WEIGHTS, "bias": bias})
    assert faults_of(graph, "mask_dropped") == []
    got = answer(graph, inputs(graph), the_fault(graph, "position_shifted", "bias", size=1))
    np.testing.assert_allclose(got, attend(scores() + np.roll(bias, 1, -1)), atol=1e-5)


@pytest.mark.parametrize("place", ["after the product", "before the product", "none"])
@pytest.mark.parametrize("factor", [WIDTH**0.5, WIDTH**-0.5, HEADS**-0.5])
def test_another_scale_is_that_of_the_scores(place: str, factor: float) -> None:
    before = "q2 = Mul(q, half) k2 = Mul(k, half) kt = Transpose<perm=[0,1,3,2]>(k2) s = MatMul(q2, kt)"
    nodes = {
        "after the product": f"{SCORES} w = Softmax<axis=-1>(d)",
        "before the product": f"{before} w = Softmax<axis=-1>(s)",
        "none": "kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) w = Softmax<axis=-1>(s)",
    }[place]
    graph = graph_of(SIGNATURE.format(""), f"{nodes} {MERGE}", {**WEIGHTS, "half": SCALE**0.5})
    own = 1.0 if place == "none" else SCALE
    assert len(faults_of(graph, "attention_scale")) == 3
    got = answer(graph, inputs(graph), the_fault(graph, "attention_scale", "s", size=factor))
    np.testing.assert_allclose(got, attend(scores(own * factor)), atol=1e-5)


def test_permuted_heads_of_the_result_and_of_the_queries() -> None:
    graph = plain()
    got = answer(graph, inputs(graph), the_fault(graph, "heads_permuted", "heads of o"))
    mixed = softmax(scores()) @ V
    np.testing.assert_allclose(got, np.roll(mixed, 1, 1).transpose(0, 2, 1, 3).reshape(got.shape), atol=1e-5)
    got = answer(graph, inputs(graph), the_fault(graph, "heads_permuted", "heads of q"))
    rolled = np.roll(Q, 1, 1) @ K.transpose(0, 1, 3, 2) * SCALE
    np.testing.assert_allclose(got, attend(rolled), atol=1e-5)


def test_heads_merged_without_a_transpose() -> None:
    graph = plain()
    got = answer(graph, inputs(graph), the_fault(graph, "heads_permuted", "merge of t"))
    np.testing.assert_allclose(got, (softmax(scores()) @ V).reshape(got.shape), atol=1e-5)


def test_heads_split_in_another_order() -> None:
    """The joint result as (3, heads, width) in its last axis is read as (heads, 3, width)."""
    split = "r = Reshape(x, joint) p = Transpose<perm=[2,0,3,1,4]>(r) a, b, c = Split<axis=0, num_outputs=3>(p) "
    parts = "q = Squeeze(a, zero) k = Squeeze(b, zero) v = Squeeze(c, zero) "
    nodes = f"{split} {parts} {SCORES} w = Softmax<axis=-1>(d) {MERGE}"
    weights = {**WEIGHTS, "joint": np.array([-1, TOKENS, 3, HEADS, WIDTH]), "zero": np.array([0])}
    signature = f"(float[N,{TOKENS},{3 * HEADS * WIDTH}] x) => (float[N,{TOKENS},{HEADS * WIDTH}] y)"
    graph = graph_of(signature, nodes, weights)
    x = RNG.standard_normal((CASES, TOKENS, 3 * HEADS * WIDTH)).astype(np.float32)
    got = answer(graph, {"x": x}, the_fault(graph, "heads_permuted", "split of p"))
    q, k, v = x.reshape(CASES, TOKENS, HEADS, 3, WIDTH).transpose(3, 0, 2, 1, 4)
    np.testing.assert_allclose(got, attend(q @ k.transpose(0, 1, 3, 2) * SCALE, v), atol=1e-5)


def test_one_head_has_no_order() -> None:
    one = SIGNATURE.replace(f"N,{HEADS},", "N,1,").format("")
    graph = graph_of(one, f"{SCORES} w = Softmax<axis=-1>(d) {MERGE}", {**WEIGHTS, "merged": [-1, TOKENS, WIDTH]})
    assert not [fault for fault in faults_of(graph, "heads_permuted") if "heads of" in fault.place]


def test_a_softmax_along_the_queries() -> None:
    graph = plain()
    (fault,) = faults_of(graph, "softmax_axis")
    np.testing.assert_allclose(answer(graph, inputs(graph), fault), attend(scores(), axis=-2), atol=1e-5)


def test_a_softmax_of_classes_keeps_its_axis() -> None:
    assert faults_of(graph_of("(float[N,5] x) => (float[N,5] y)", "y = Softmax<axis=1>(x)", {}), "softmax_axis") == []


def test_the_last_key_is_lost() -> None:
    graph = plain()
    keys, values = K.copy(), V.copy()
    keys[:, :, -1], values[:, :, -1] = K[:, :, -2], V[:, :, -2]
    got = answer(graph, inputs(graph), the_fault(graph, "token_dropped", "last key"))
    np.testing.assert_allclose(got, attend(Q @ keys.transpose(0, 1, 3, 2) * SCALE, values), atol=1e-5)


@pytest.mark.parametrize("attributes", ["", ", scale=0.25"])
def test_the_scale_of_the_operator(attributes: str) -> None:
    graph = operator(attributes)
    own = 0.25 if attributes else SCALE
    assert len(faults_of(graph, "attention_scale")) == 3
    got = answer(graph, inputs(graph), the_fault(graph, "attention_scale", "o", size=WIDTH**-0.5))
    np.testing.assert_allclose(got, attend(scores(own * WIDTH**-0.5)), atol=1e-5)


def test_the_mask_of_the_operator() -> None:
    assert faults_of(operator(""), "mask_dropped") == []
    causal_graph, masked = operator(", is_causal=1"), operator("", f", bool[{TOKENS},{TOKENS}] seen", ", seen")
    arrays = {"q": Q, "k": K, "v": V}
    for graph, given in ((causal_graph, arrays), (masked, {**arrays, "seen": ~LATER})):
        np.testing.assert_allclose(answer(graph, given), attend(np.where(LATER, -1e9, scores())), atol=1e-5)
        (fault,) = faults_of(graph, "mask_dropped")
        np.testing.assert_allclose(answer(graph, given, fault), attend(scores()), atol=1e-5)


def operator(attributes: str, mask_input: str = "", mask: str = "") -> FaultGraph:
    """The operator of opset 23."""
    merge = "t = Transpose<perm=[0,2,1,3]>(o) y = Reshape(t, merged)"
    nodes = f"o = Attention<softmax_precision=1{attributes}>(q, k, v{mask}) {merge}"
    return graph_of(SIGNATURE.format(mask_input), nodes, WEIGHTS, opset=23)
