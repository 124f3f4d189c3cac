"""Tests all recipes: on a graph with every motif, on graphs without any, and for a stable result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from deploytool.rewrites import forms as rewrites_forms
from deploytool.rewrites.recipes import ORIGINAL, RECIPES
from tests.conftest import ROOT
from tests.rewrites.builder import GraphBuilder, evaluate, evaluate_all, op_types

ALL_REWRITES = sorted({name for names in RECIPES.values() for name in names})


def mixnet_block(net: GraphBuilder, source: str) -> str:
    """Pointwise convolutions on slices, a batch norm after their Concat, and a MixConv with a batch norm."""
    expanded = net.norm(net.concat(*(net.conv(part, 12, bias=False) for part in net.split(source, [4, 4]))))
    parts = zip(net.split(net.op("Relu", expanded), [8, 8, 8]), (3, 5, 7), strict=True)
    mixed = net.norm(net.concat(*(net.depthwise(part, kernel, bias=False) for part, kernel in parts)))
    reduced = [net.conv(part, 4) for part in net.split(net.op("HardSwish", mixed), [12, 12])]
    return net.op("Add", net.norm(net.concat(*reduced)), source)


def shufflenet_block(net: GraphBuilder, source: str) -> str:
    """Grouped convolutions with a shuffle between them, concatenated with a pooled shortcut."""
    shuffled = net.shuffle(net.op("Relu", net.conv(source, 24, groups=4)), 4)
    reduced = net.conv(net.depthwise(shuffled, 3, stride=2), 24, groups=4)
    return net.op("Relu", net.concat(reduced, net.op("AveragePool", source, kernel_shape=[2, 2], strides=[2, 2])))


def all_motifs() -> onnx.ModelProto:
    """A graph with all motifs."""
    net = GraphBuilder(8, seed=5)
    tensor = shufflenet_block(net, mixnet_block(net, net.norm(net.conv("image", 8, 3))))
    fire = net.concat(*(net.op("Relu", net.conv(tensor, 8, kernel)) for kernel in (1, 3)))
    return net.model(fire)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_exact_on_a_graph_with_all_motifs(recipe: str) -> None:
    model = all_motifs()
    after, outcomes = rewrites_forms.rewrite(model, RECIPES[recipe])
    expected, output = evaluate(model)[0], evaluate(after)[0]
    assert abs(output - expected).max() <= 1e-12 * abs(expected).max()
    assert "BatchNormalization" not in op_types(after) or recipe == ORIGINAL
    assert list(outcomes) == list(RECIPES[recipe])


def test_fewest_nodes_removes_split_transpose_and_batch_norm() -> None:
    (fewest,) = (form for form in rewrites_forms.candidates(all_motifs()) if form.name == "fewest-nodes")
    assert not {"Split", "Transpose", "BatchNormalization"} & set(op_types(fewest.model))
    assert op_types(fewest.model).count("Concat") == 1


def test_forms_are_distinct_and_the_original_is_the_same_object() -> None:
    model = all_motifs()
    forms = rewrites_forms.candidates(model)
    assert [name for form in forms for name in form.names] == list(dict.fromkeys(RECIPES))
    assert forms[0].model is model
    assert len({form.model.SerializeToString(deterministic=True) for form in forms}) == len(forms)


def test_tensors_of_one_name_are_equal_in_all_forms() -> None:
    known_values: dict[str, Any] = {}
    for form in rewrites_forms.candidates(all_motifs()):
        for name, values in evaluate_all(form.model).items():
            known = known_values.setdefault(name, values)
            assert known.shape == values.shape, name
            assert abs(known - values).max() <= 1e-12 * max(1.0, abs(known).max()), name


@pytest.mark.parametrize("name", ALL_REWRITES)
def test_a_graph_without_the_motif_is_unchanged_and_a_reason_is_given(name: str) -> None:
    net = GraphBuilder(8)
    model = net.model(net.op("Relu", net.conv(net.op("Relu", net.conv("image", 8, 3)), 8)))
    before = model.SerializeToString(deterministic=True)
    after, outcomes = rewrites_forms.rewrite(model, [name])
    assert after.SerializeToString(deterministic=True) == before
    assert outcomes[name].applied == ()
    assert outcomes[name].skipped


@pytest.mark.parametrize("name", ALL_REWRITES)
def test_a_graph_without_feature_maps_is_unchanged(name: str) -> None:
    net = GraphBuilder(8)
    flat = net.op("Flatten", "image", axis=1)
    model = net.model(net.op("Softmax", net.op("MatMul", flat, net.weight(net.rng.normal(size=(512, 10)))), axis=-1))
    assert rewrites_forms.rewrite(model, [name])[0] is model


def test_recipes_are_idempotent() -> None:
    model = all_motifs()
    for recipe in RECIPES.values():
        once, _ = rewrites_forms.rewrite(model, recipe)
        twice, outcomes = rewrites_forms.rewrite(once, [name for name in recipe if name != "densify_shuffled"])
        assert twice is once, outcomes


def test_every_rewrite_module_is_in_a_recipe() -> None:
    files = {path.stem for path in Path(ROOT / "deploytool" / "rewrites").glob("[a-z]*.py")}
    assert files - {"forms", "recipes", "simplify_worker"} == set(ALL_REWRITES)
    for name in ALL_REWRITES:
        assert callable(rewrites_forms.load(name).apply)
