"""Tests of reading checkpoint files of all formats, with the wrappers that training scripts add."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.loading import factory
from deploytool.loading.catalog import find
from deploytool.loading.checkpoints import checkpoint
from deploytool.loading.checkpoints.checkpoint import LoadedCheckpoint
from deploytool.spec import Model, Option
from tests.conftest import TINY
from tests.loading.checkpoints import published
from tests.tiny import tiny

SQUEEZENET = published.tensors(published.shapes("torchvision_squeezenet1_1"))
MOBILENET = published.shapes("timm_mobilenetv1_100")


def load(content: object, folder: Path, model: Model = TINY, *, trust_code: bool = False) -> LoadedCheckpoint:
    torch.save(content, folder / "weights.pth")
    return checkpoint.load(folder / "weights.pth", model, trust_code=trust_code)


def equal(loaded: LoadedCheckpoint, state: dict[str, Tensor]) -> bool:
    return list(loaded.state) == list(state) and all(torch.equal(loaded.state[key], state[key]) for key in state)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "around",
    [
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.7},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict_ema": state, "state_dict": {"other": torch.zeros(1)}},
        lambda state: {"model_ema": state, "model": {"other": torch.zeros(1)}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: prefixed("module.", state),
        lambda state: {"state_dict": prefixed("module.backbone.", state)},
        lambda state: {
            key: nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) for key, tensor in state.items()
        },
    ],
    ids=["state_dict", "model", "state_dict_ema", "model_ema", "two deep", "module.", "module.backbone.", "parameters"],
)
def test_wrappers_of_training_scripts_are_removed(around: Callable[[Any], object], tmp_path: Path) -> None:
    state = tiny().state_dict()
    assert equal(load(around(state), tmp_path), state)


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    save_file(SQUEEZENET, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = checkpoint.load(tmp_path / "model.safetensors", find("squeezenet1_1"))
    assert loaded.layout == "torchvision"
    assert equal(loaded, SQUEEZENET)


@pytest.mark.parametrize("length", [640, 15_392, 19_280])
def test_a_header_whose_length_looks_like_another_format_is_read(length: int, tmp_path: Path) -> None:
    weights = {"stem.0.weight": torch.zeros(8, 3, 3, 3), "x" * (length - 200): torch.zeros(1)}
    good = save(weights)
    header = good[8 : 8 + int.from_bytes(good[:8], "little")].rstrip(b" ").ljust(length, b" ")
    start = length.to_bytes(8, "little")
    assert start.lstrip().startswith((b"\x80\x02", b"<", b"PK"))  # a pickle, a web page, a zip archive
    data = b"".join(tensor.numpy().tobytes() for tensor in weights.values())
    (tmp_path / "model.safetensors").write_bytes(start + header + data)
    with pytest.raises(BadInput, match=r"it lacks 'stem.1.weight'"):
        checkpoint.load(tmp_path / "model.safetensors", TINY)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = tiny().state_dict()
    saved = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    loaded = load(saved, tmp_path)
    assert {tensor.dtype for tensor in loaded.state.values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.state["stem.0.weight"], saved["stem.0.weight"].float())


def test_a_value_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    state = {
        key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in tiny().state_dict().items()
    }
    state["stem.0.weight"][0] = 1e300
    with pytest.raises(BadInput, match=r"'stem.0.weight' contains values that are not finite"):
        load(state, tmp_path)


def test_missing_batch_norm_counters_are_added(tmp_path: Path) -> None:
    weights = published.tensors(published.shapes("megvii_shufflenet_g3_x1_0"))
    old = {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    state = load(old, tmp_path, find("shufflenet_g3")).state
    assert state["stem_bn.num_batches_tracked"] == 0
    assert len(state) == len(weights)


def test_loaded_tensors_share_no_memory(tmp_path: Path) -> None:
    state = tiny().state_dict()
    state["stem.1.bias"] = state["stem.1.weight"]
    loaded = load(state, tmp_path).state
    assert len({tensor.untyped_storage().data_ptr() for tensor in loaded.values()}) == len(loaded)
    assert all(tensor.is_contiguous() for tensor in loaded.values())


def test_loading_does_not_change_the_random_generator(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load(tiny().state_dict(), tmp_path)
    torch.manual_seed(1)
    checkpoint.load(tmp_path / "weights.pth", TINY)
    assert torch.rand(1) == expected


class CodeFile:
    """Writers of checkpoint files that contain code."""

    @staticmethod
    def torchscript(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated
            torch.jit.save(torch.jit.trace(tiny().eval(), torch.zeros(1, 3, 32, 32)), path)  # type: ignore[no-untyped-call]

    @staticmethod
    def exported(path: Path) -> None:
        torch.export.save(torch.export.export(tiny().eval(), (torch.zeros(1, 3, 32, 32),)), path)

    @staticmethod
    def module(path: Path) -> None:
        torch.save(tiny(), path)

    @staticmethod
    def checkpoint_with_module(path: Path) -> None:
        torch.save({"model": tiny(), "epoch": 1}, path)

    @staticmethod
    def more_than_tensors(path: Path) -> None:
        torch.save({"state_dict": tiny().state_dict(), "measure": statistics.NormalDist(0, 1)}, path)

    @staticmethod
    def old_pickle(path: Path) -> None:
        content = {"state_dict": tiny().state_dict(), "measure": statistics.NormalDist(0, 1)}
        torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "format_name", "suffix"),
    [
        (CodeFile.torchscript, "a TorchScript archive", ".pt"),
        (CodeFile.exported, "a torch.export archive", ".pt2"),
        (CodeFile.module, "a whole pickled module (it references 'tests.tiny.Tiny')", ".pth"),
        (CodeFile.checkpoint_with_module, "a whole pickled module (it references 'tests.tiny.Tiny')", ".pth"),
        (
            CodeFile.more_than_tensors,
            "a torch file of more than tensors",
            ".pth",
        ),
        (CodeFile.old_pickle, "a torch file of more than tensors", ".pth"),
    ],
)
def test_a_file_with_code_is_loaded_only_with_trust_code(
    write: Callable[[Path], None], format_name: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    write(path)
    with pytest.raises(BadInput) as caught:
        checkpoint.load(path, TINY)
    assert str(caught.value).startswith(f"this is {format_name}")
    assert "--trust-code" in caught.value.remedy
    assert list(checkpoint.load(path, TINY, trust_code=True).state) == list(tiny().state_dict())


def write_own_file(folder: Path, name: str, **options: Option) -> tuple[Path, Model]:
    """Writes a file like those of this tool: weights, and the model definition in the metadata."""
    model = find(name)
    model = replace(model, options={**model.options, **options})
    state = factory.resolve(model.factory)(**model.options).state_dict()
    save_file(state, folder / "ours.safetensors", metadata={"model": json.dumps(serde.encode(model))})
    return folder / "ours.safetensors", model


def test_the_definition_in_an_own_file_is_used(tmp_path: Path) -> None:
    path, written = write_own_file(tmp_path, "mobilenet_v1_cifar", width=0.25)
    requested = replace(find("mobilenet_v1"), options={})
    loaded = checkpoint.load(path, requested)
    assert loaded.layout == "ours"  # the names alone would also match timm
    assert loaded.model.options == written.options
    assert loaded.model.preprocessing == written.preprocessing
    assert loaded.model.inputs == written.inputs
    assert loaded.model.outputs[0].shape == ("batch", 10)
    assert loaded.model.name == "mobilenet_v1"


def test_an_own_file_is_not_loaded_for_a_different_model(tmp_path: Path) -> None:
    path, _ = write_own_file(tmp_path, "mobilenet_v1_025")
    with pytest.raises(BadInput, match="'mobilenet_v1_025', and mixnet_s was requested"):
        checkpoint.load(path, find("mixnet_s"))
    with pytest.raises(BadInput, match=r"'mobilenet_v1_025', which needs width=0.25, and mobilenet_v1 has 1.0"):
        checkpoint.load(path, find("mobilenet_v1"))


@pytest.mark.parametrize(
    "change",
    [
        *({"preprocessing": {"crop": crop}} for crop in (10**9, "x", 0)),
        {"preprocessing": {"mean": [0.5, 0.5]}},
        {"preprocessing": {"std": [0, 1, 1]}},
        {"preprocessing": {"scale": float("nan")}},
        {"preprocessing": {"channels": 3}},
        *({field: value} for field, value in (("factory", 3), ("name", None), ("preprocessing", 1), ("options", []))),
    ],
    ids=str,
)
def test_a_definition_with_an_invalid_field_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    definition: Any = serde.encode(find("squeezenet1_1"))
    for field, value in change.items():
        definition[field] = {**definition[field], **value} if isinstance(value, dict) else value
    check_definition_is_refused(json.dumps(definition), tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "{}", "3", "null"], ids=lambda text: text[:3])
def test_metadata_that_is_no_definition_is_refused(text: str, tmp_path: Path) -> None:
    check_definition_is_refused(text, tmp_path)


def check_definition_is_refused(text: str, folder: Path) -> None:
    save_file(SQUEEZENET, folder / "bad.safetensors", metadata={"model": text})
    with pytest.raises(BadInput, match="model definition in the metadata"):
        checkpoint.load(folder / "bad.safetensors", find("squeezenet1_1"))


@pytest.mark.parametrize("option", [{"version": [1]}, {"base_e": "many"}, {"flavour": 1}, {"freq": -1}, {"sr": 1e30}])
def test_a_definition_with_invalid_options_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    model = replace(find("squeezenet1_1"), options=option)
    save_file(SQUEEZENET, tmp_path / "odd.safetensors", metadata={"model": json.dumps(serde.encode(model))})
    with pytest.raises(BadInput):
        checkpoint.load(tmp_path / "odd.safetensors", replace(model, options={}))


def test_the_options_of_the_model_distinguish_own_mobilenet_weights_from_timms(tmp_path: Path) -> None:
    weights = published.tensors(MOBILENET, classes=10)
    assert load(weights, tmp_path, find("mobilenet_v1")).layout == "timm"
    assert load(weights, tmp_path, find("mobilenet_v1_cifar")).layout == "ours"
    relu = replace(find("mobilenet_v1"), options={"activation": "relu"})
    assert load(weights, tmp_path, relu).layout == "ours"
