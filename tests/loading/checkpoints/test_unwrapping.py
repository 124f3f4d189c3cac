"""Tests that the right state dict is found in checkpoints of many trainers."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from deploytool.errors import BadInput
from deploytool.loading.catalog import find
from deploytool.loading.checkpoints import checkpoint
from deploytool.pipeline import options
from deploytool.spec import Model
from deploytool.spec import Tensor as Input
from tests.conftest import TINY
from tests.loading.checkpoints import published
from tests.tiny import tiny

SQUEEZENET = published.tensors(published.shapes("torchvision_squeezenet1_1"))
Weights = dict[str, Tensor]
Around = Callable[[Weights, Weights], object]


class Settings:
    """A class of the training project."""

    def __init__(self) -> None:
        self.rate = 0.1


class Tied(nn.Module):
    """A small language model: the last layer shares the weights of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(ids))
        return logits


class Wrapped(nn.Module):
    """The tiny network as a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits


TIED = Model("tied", f"{__name__}:Tied", {}, (Input("ids", ("batch", 3), "int64"),), (Input("logits", ("batch",)),))
WRAPPED = Model("wrapped", f"{__name__}:Wrapped", {}, TINY.inputs, TINY.outputs)


def prefixed(prefix: str, state: Weights) -> Weights:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def optimizer_state() -> object:
    """The state of an optimizer after one step."""
    net = tiny()
    adam = torch.optim.AdamW(net.parameters())
    net(torch.rand(2, 3, 32, 32)).sum().backward()
    adam.step()
    return adam.state_dict()


def averaged(state: Weights) -> object:
    net = tiny()
    net.load_state_dict(state)
    return AveragedModel(net).state_dict()


AROUND: dict[str, Around] = {
    "compile": lambda good, bad: prefixed("_orig_mod.", good),
    "DDP of compile": lambda good, bad: prefixed("module._orig_mod.", good),
    "compile of DDP": lambda good, bad: prefixed("_orig_mod.module.", good),
    "compiled parts": lambda good, bad: {key.replace("stem.", "stem._orig_mod."): good[key] for key in good},
    "FSDP": lambda good, bad: prefixed("_fsdp_wrapped_module.", good),
    "tutorial": lambda good, bad: {
        "epoch": 3,
        "model_state_dict": good,
        "optimizer_state_dict": optimizer_state(),
        "loss": torch.tensor(0.3),
    },
    "Lightning": lambda good, bad: {
        "epoch": 1,
        "global_step": 99,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed("model.", good),
        "optimizer_states": [optimizer_state()],
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning with weights of the loss": lambda good, bad: {
        "state_dict": prefixed("net.", good) | {"criterion.weight": torch.ones(10)}
    },
    "Lightning with a nested submodule": lambda good, bad: {"state_dict": prefixed("task.backbone.net.", good)},
    "compiled Lightning": lambda good, bad: {"state_dict": prefixed("model._orig_mod.", good)},
    "AveragedModel": lambda good, bad: averaged(good),
    "AveragedModel and the last": lambda good, bad: {"model": bad, "swa_model": averaged(good)},
    "BasicSR": lambda good, bad: {"params": bad, "params_ema": good},
    "timm": lambda good, bad: {"arch": "x", "state_dict": bad, "state_dict_ema": prefixed("module.", good)},
    "torchvision": lambda good, bad: {"model": bad, "model_ema": {**prefixed("module.", good), "n_averaged": 3}},
    "ema": lambda good, bad: {"ema": good, "model": bad, "updates": 4},
    "ema_state_dict": lambda good, bad: {"ema_state_dict": good, "model_state_dict": bad},
    "ema_pytorch": lambda good, bad: {
        **prefixed("online_model.", bad),
        **prefixed("ema_model.", good),
        "initted": torch.tensor(True),
        "step": torch.tensor(8),
    },
    "DINO": lambda good, bad: {
        "student": prefixed("module.backbone.", bad),
        "teacher": {**prefixed("backbone.", good), "head.mlp.weight": torch.ones(3)},
        "epoch": 7,
    },
    "DeepSpeed": lambda good, bad: {"module": good, "dp_world_size": 8, "global_steps": 5},
    "nested": lambda good, bad: {"checkpoint": {"trainer": {"network": {"state_dict": good}}}},
    "numbers in the state dict": lambda good, bad: {**good, "epoch": 3, "best": 0.9, "name": "tiny"},
    "thop": lambda good, bad: {**good, "total_ops": torch.zeros(1), "stem.0.total_params": torch.zeros(1)},
    "NumPy scalars": lambda good, bad: {"state_dict": good, "best": np.float64(0.7), "top": np.int64(3)},
    "NumPy arrays": lambda good, bad: {"state_dict": good, "confusion": np.eye(3)},
    "Namespace": lambda good, bad: {"model": good, "args": argparse.Namespace(lr=0.1, out=Path("runs"))},
    "dates": lambda good, bad: {"model": good, "at": datetime.datetime(2024, 1, 1), "of": SimpleNamespace(a=1)},
    "a class of the user": lambda good, bad: {"model": good, "settings": Settings()},
}


def state_of(seed: int) -> Weights:
    torch.manual_seed(seed)
    return dict(tiny().state_dict())


def check(path: Path, state: Weights, model: Model = TINY) -> str:
    loaded = checkpoint.load(path, model)
    assert list(loaded.state) == list(state)
    assert all(torch.equal(loaded.state[key], tensor) for key, tensor in state.items())
    assert "\n" not in loaded.unwrapped
    return loaded.unwrapped


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", AROUND)
def test_the_right_state_dict_is_found(name: str, legacy: bool, tmp_path: Path) -> None:
    good, bad = state_of(1), state_of(2)
    torch.save(AROUND[name](good, bad), tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    check(tmp_path / "net.pt", good)


@pytest.mark.parametrize(
    "name", ["DDP of compile", "tutorial", "Lightning", "BasicSR", "DINO", "Namespace", "ema_pytorch"]
)
def test_the_state_dict_of_a_zoo_model_is_found(name: str, tmp_path: Path) -> None:
    other = {key: tensor + 1 if tensor.is_floating_point() else tensor for key, tensor in SQUEEZENET.items()}
    torch.save(AROUND[name](SQUEEZENET, other), tmp_path / "net.pt")
    loaded = checkpoint.load(tmp_path / "net.pt", find("squeezenet1_1"))
    assert loaded.layout == "torchvision"
    assert all(torch.equal(loaded.state[key], tensor) for key, tensor in SQUEEZENET.items())


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("compile", "without the prefix '_orig_mod.'"),
        ("tutorial", "those under 'model_state_dict'"),
        ("BasicSR", "those under 'params_ema'; not those under 'params'"),
        ("timm", "those under 'state_dict_ema' without the prefix 'module.'; not those under 'state_dict'"),
        ("Lightning with weights of the loss", "those under 'state_dict' without the prefix 'net.'; 1 others left out"),
        ("DINO", "those under 'teacher' without the prefix 'backbone.'; not those under 'student' without"),
    ],
)
def test_the_location_of_the_state_dict_is_described(name: str, description: str, tmp_path: Path) -> None:
    torch.save(AROUND[name](state_of(1), state_of(2)), tmp_path / "net.pt")
    assert check(tmp_path / "net.pt", state_of(1)).startswith(description)


def test_a_bare_state_dict_has_no_description(tmp_path: Path) -> None:
    torch.save(state_of(1), tmp_path / "net.pt")
    assert check(tmp_path / "net.pt", state_of(1)) == ""


@pytest.mark.parametrize("around", ["", "module.", "_orig_mod."])
def test_a_missing_prefix_is_added(around: str, tmp_path: Path) -> None:
    torch.save(prefixed(around, state_of(1)), tmp_path / "net.pt")
    assert "with the prefix 'net.'" in check(tmp_path / "net.pt", prefixed("net.", state_of(1)), WRAPPED)


def error_message(content: object, folder: Path, model: Model = TINY) -> str:
    """Saves the checkpoint, loads it, and returns the problem and the remedy of the error."""
    torch.save(content, folder / "net.pt")
    with pytest.raises(BadInput) as caught:
        checkpoint.load(folder / "net.pt", model)
    assert "\n" not in f"{caught.value}{caught.value.remedy}"
    return f"{caught.value} -> {caught.value.remedy}"


def test_two_networks_of_the_same_architecture_are_an_error(tmp_path: Path) -> None:
    first, second = state_of(1), state_of(2)
    message = error_message({"G_A": first, "G_B": second}, tmp_path)
    assert "more than one set of weights for tiny: those under 'G_A', and those under 'G_B'" in message
    both = {"state_dict": {**prefixed("gen_a.", first), **prefixed("gen_b.", second)}}
    assert "without the prefix 'gen_a.'" in error_message(both, tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: {f"{'a' if 'stem' in key else 'b'}.{key}": state[key] for key in state}, "it lacks "),
        (
            lambda state: prefixed("model.", {**state, "extra.weight": torch.ones(1)}),
            "additional tensor 'extra",
        ),
        (lambda state: {"state_dict": prefixed("net.", dict(list(state.items())[1:]))}, "it lacks 'stem.0.weight'"),
        (lambda state: {"model": {**state, "stem.0.weight": torch.ones(2)}}, "'stem.0.weight' is 2, not 8 × 3 × 3 × 3"),
    ],
    ids=["two prefixes", "one more", "one less", "another shape"],
)
def test_the_error_contains_the_difference(change: Callable[[Weights], object], problem: str, tmp_path: Path) -> None:
    assert problem in error_message(change(state_of(1)), tmp_path)


def test_the_error_contains_the_prefix(tmp_path: Path) -> None:
    state = {f"{'body.' if 'stem' in key else ''}{key}": tensor for key, tensor in state_of(1).items()}
    assert "it lacks 'stem.0.weight', and has 'body.stem.0.weight'" in error_message(state, tmp_path)
    wrong_shape = prefixed("net.", {**state_of(1), "stem.0.weight": torch.ones(2)})
    assert "(layout: ours, without the prefix 'net.')" in error_message(wrong_shape, tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_module_is_refused_without_trust_code(legacy: bool, tmp_path: Path) -> None:
    torch.save({"model": tiny(), "epoch": 3}, tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInput, match="a whole pickled module") as caught:
        checkpoint.load(tmp_path / "net.pt", TINY)
    assert "state_dict()" in caught.value.remedy
    assert len(checkpoint.load(tmp_path / "net.pt", TINY, trust_code=True).state) > 3


def test_missing_code_of_a_trusted_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": Wrapped()}, tmp_path / "net.pt")
    monkeypatch.delitem(globals(), "Wrapped")
    with pytest.raises(BadInput, match="needs the code that it was saved with") as caught:
        checkpoint.load(tmp_path / "net.pt", WRAPPED, trust_code=True)
    assert "PYTHONPATH" in caught.value.remedy


def test_replaced_objects_run_no_code(tmp_path: Path) -> None:
    calls: list[object] = []
    Settings.__setstate__ = lambda self, state: calls.append(state)  # type: ignore[attr-defined]
    torch.save({"model": state_of(1), "settings": Settings()}, tmp_path / "net.pt")
    check(tmp_path / "net.pt", state_of(1))
    del Settings.__setstate__  # type: ignore[attr-defined]
    assert calls == []


@pytest.mark.parametrize("omitted", ["head.weight", "embed.weight"])
def test_an_omitted_tied_weight_is_added(omitted: str, tmp_path: Path) -> None:
    state = dict(Tied().state_dict())
    rest = {key: tensor for key, tensor in state.items() if key != omitted}
    torch.save(rest, tmp_path / "net.pt")
    check(tmp_path / "net.pt", state, TIED)
    save_file(rest, tmp_path / "net.safetensors")
    check(tmp_path / "net.safetensors", state, TIED)


def test_tied_weights_that_safetensors_omits_are_added(tmp_path: Path) -> None:
    net = Tied()
    save_model(net, str(tmp_path / "net.safetensors"))
    check(tmp_path / "net.safetensors", dict(net.state_dict()), TIED)


def sharded(folder: Path, state: Weights, suffix: str) -> Path:
    """Writes the state dict as two shards and an index; returns the path of the index."""
    keys, stem = list(state), "model" if suffix == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
        content = {key: state[key] for key in part}
        save_file(content, folder / name) if suffix == "safetensors" else torch.save(content, folder / name)
    index = folder / f"{stem}.{suffix}.index.json"
    weight_map = {key: names[number % 2] for number, key in enumerate(keys)}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_shards_of_an_index_are_merged(suffix: str, prefix: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, prefixed(prefix, state_of(1)), suffix)
    check(index, state_of(1))
    before = options.file(index).digest
    sharded(tmp_path, prefixed(prefix, state_of(2)), suffix)
    assert options.file(index).digest != before


def test_the_remedy_for_a_shard_is_its_index(tmp_path: Path) -> None:
    sharded(tmp_path, state_of(1), "safetensors")
    with pytest.raises(BadInput) as caught:
        checkpoint.load(tmp_path / "model-00001-of-00002.safetensors", TINY)
    assert "give model.safetensors.index.json" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "not an index"),
        ("[", "not an index"),
        ('{"weight_map": {}}', "not an index"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "not an index"),
        ('{"weight_map": {"a": "b.index.json"}}', "not an index"),
        ('{"weight_map": {"a": "b.safetensors"}}', "b.safetensors', which is missing"),
    ],
)
def test_an_invalid_index_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "net.index.json").write_text(text)
    with pytest.raises(BadInput, match=problem):
        checkpoint.load(tmp_path / "net.index.json", TINY)


def test_a_legacy_file_with_a_too_large_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"stem.0.weight": torch.zeros(300)}, tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "net.pt").read_bytes()
    offset = content.index(b"M\x2c\x01N")  # the number of elements of the storage
    (tmp_path / "net.pt").write_bytes(content[:offset] + b"J\xff\xff\xff\x7fN" + content[offset + 4 :])
    with pytest.raises(BadInput, match="a tensor of 2,147,483,647 elements"):
        checkpoint.load(tmp_path / "net.pt", TINY)
