"""The recipes as a whole: on other people's networks, on graphs without a motif, and in the order they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from deploytool.rewrites import forms as rewrites_forms
from deploytool.rewrites.recipes import ORIGINAL, RECIPES
from tests.conftest import ROOT
from tests.rewrites.drawing import Drawing, answers, kinds, tensors

EVERY = sorted({name for names in RECIPES.values() for name in names})


def mixed_unit(net: Drawing, source: str) -> str:
    """Split pointwise convolutions, a batch norm behind their Concat, and a MixConv with another."""
    wide = net.norm(net.concat(*(net.conv(part, 12, bias=False) for part in net.split(source, [4, 4]))))
    parts = zip(net.split(net.op("Relu", wide), [8, 8, 8]), (3, 5, 7), strict=True)
    mixed = net.norm(net.concat(*(net.depthwise(part, kernel, bias=False) for part, kernel in parts)))
    narrow = [net.conv(part, 4) for part in net.split(net.op("HardSwish", mixed), [12, 12])]
    return net.op("Add", net.norm(net.concat(*narrow)), source)


def shuffled_unit(net: Drawing, source: str) -> str:
    """Grouped convolutions with a shuffle between them, laid beside a pooled shortcut."""
    shuffled = net.shuffle(net.op("Relu", net.conv(source, 24, groups=4)), 4)
    narrow = net.conv(net.depthwise(shuffled, 3, stride=2), 24, groups=4)
    return net.op("Relu", net.concat(narrow, net.op("AveragePool", source, kernel_shape=[2, 2], strides=[2, 2])))


def everything() -> onnx.ModelProto:
    """One network with all motifs."""
    net = Drawing(8, seed=5)
    tensor = shuffled_unit(net, mixed_unit(net, net.norm(net.conv("picture", 8, 3))))
    fire = net.concat(*(net.op("Relu", net.conv(tensor, 8, kernel)) for kernel in (1, 3)))
    return net.model(fire)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_network_with_all_motifs(recipe: str) -> None:
    model = everything()
    after, outcomes = rewrites_forms.rewrite(model, RECIPES[recipe])
    expected, got = answers(model)[0], answers(after)[0]
    assert abs(got - expected).max() <= 1e-12 * abs(expected).max()
    assert "BatchNormalization" not in kinds(after) or recipe == ORIGINAL
    assert list(outcomes) == list(RECIPES[recipe])


def test_the_fewest_nodes_are_few() -> None:
    (fewest,) = (form for form in rewrites_forms.candidates(everything()) if form.name == "fewest-nodes")
    assert not {"Split", "Transpose", "BatchNormalization"} & set(kinds(fewest.model))
    assert kinds(fewest.model).count("Concat") == 1


def test_each_form_is_found_once_and_the_plain_one_is_the_graph_itself() -> None:
    model = everything()
    forms = rewrites_forms.candidates(model)
    assert [name for form in forms for name in form.names] == list(dict.fromkeys(RECIPES))
    assert forms[0].model is model
    assert len({form.model.SerializeToString(deterministic=True) for form in forms}) == len(forms)


def test_what_is_called_the_same_in_two_forms_is_the_same() -> None:
    seen: dict[str, Any] = {}
    for form in rewrites_forms.candidates(everything()):
        for name, values in tensors(form.model).items():
            known = seen.setdefault(name, values)
            assert known.shape == values.shape, name
            assert abs(known - values).max() <= 1e-12 * max(1.0, abs(known).max()), name


@pytest.mark.parametrize("name", EVERY)
def test_without_the_motif_nothing_changes_and_a_reason_is_given(name: str) -> None:
    net = Drawing(8)
    model = net.model(net.op("Relu", net.conv(net.op("Relu", net.conv("picture", 8, 3)), 8)))
    untouched = model.SerializeToString(deterministic=True)
    after, outcomes = rewrites_forms.rewrite(model, [name])
    assert after.SerializeToString(deterministic=True) == untouched
    assert outcomes[name].fired == ()
    assert outcomes[name].passed


@pytest.mark.parametrize("name", EVERY)
def test_a_graph_of_no_picture_is_left_alone(name: str) -> None:
    net = Drawing(8)
    flat = net.op("Flatten", "picture", axis=1)
    model = net.model(net.op("Softmax", net.op("MatMul", flat, net.weight(net.rng.normal(size=(512, 10)))), axis=-1))
    assert rewrites_forms.rewrite(model, [name])[0] is model


def test_twice_is_once() -> None:
    model = everything()
    for recipe in RECIPES.values():
        once, _ = rewrites_forms.rewrite(model, recipe)
        twice, outcomes = rewrites_forms.rewrite(once, [name for name in recipe if name != "densify_shuffled"])
        assert twice is once, outcomes


def test_every_file_is_a_rewrite_in_some_recipe_and_says_what_it_does() -> None:
    files = {path.stem for path in Path(ROOT / "deploytool" / "rewrites").glob("[a-z]*.py")}
    assert files == set(EVERY)
    for name in EVERY:
        assert callable(rewrites_forms.load(name).apply)
