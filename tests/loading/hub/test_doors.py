"""The doors with small modules in place of the libraries, which CI does not install; tests/foreign has those."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import deploytool
from deploytool.errors import BadInput, MissingBackend
from deploytool.loading import catalog, factory
from deploytool.loading.hub import doors
from deploytool.loading.module import build
from deploytool.pipeline import runner
from deploytool.spec import Range

CONFIG = {"model_type": "tiny", "architectures": ["TinyModel"], "vocab_size": 20, "max_position_embeddings": 16}


class TinyModel(nn.Module):
    """A model as transformers defines them: a class that is made from a configuration or a folder."""

    main_input_name, _supports_sdpa = "input_ids", True

    def __init__(self, config: Any, attention: str = "") -> None:
        super().__init__()
        self.config, self.attention = config, attention
        self.encoder = nn.Embedding(20, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, Any]:
        hidden = self.encoder(input_ids)
        return {"last_hidden_state": hidden if attention_mask is None else hidden * attention_mask[..., None]}

    @classmethod
    def _from_config(cls, config: Any, dtype: Any = None, attn_implementation: str = "") -> TinyModel:
        return cls(config, attn_implementation)

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> Any:
        assert options["local_files_only"]
        assert options["dtype"] is torch.float32
        missing = {"encoder.weight"} if (Path(folder) / "partial").exists() else set()
        return cls(options["config"], options["attn_implementation"]), {"missing_keys": missing}


def _settings(folder: str, *, trust_remote_code: bool, local_files_only: bool) -> Any:
    assert local_files_only
    content = json.loads((Path(folder) / "config.json").read_text())
    return SimpleNamespace(**{"use_cache": True, **content}, to_dict=lambda: content)


def _module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


@pytest.fixture
def _libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logging = SimpleNamespace(set_verbosity_error=lambda: None, disable_progress_bar=lambda: None)
    masks = _module("transformers.masking_utils", _ignore_bidirectional_mask_sdpa=lambda mask: bool(mask.all()))
    dynamic = _module("transformers.dynamic_module_utils")
    transformers = _module(
        "transformers",
        **{"__version__": "0", "AutoConfig": SimpleNamespace(from_pretrained=_settings), "CONFIG_MAPPING": ["tiny"]},
        **{"logging": logging, "masking_utils": masks, "dynamic_module_utils": dynamic, "TinyModel": TinyModel},
        **{"AutoModel": SimpleNamespace(_model_mapping={}), "PretrainedConfig": object},
    )
    hub = _module("huggingface_hub", try_to_load_from_cache=lambda name, file: None)
    for module in (transformers, masks, dynamic, hub, _timm()):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    names = [f"deploytool.loading.hub.{name}" for name in doors.HUBS.values()]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


def _timm() -> ModuleType:
    def create_model(name: str, pretrained: bool, exportable: bool, **options: Any) -> nn.Module:
        if "depth" in options:
            raise TypeError("no depth")
        return nn.Conv2d(options.get("in_chans", 3), 2, 3)

    config = {"input_size": (3, 64, 64), "crop_pct": 1.0, "hf_hub_id": "timm/", "label_names": ["cat", "dog"]}
    models = SimpleNamespace(
        split_model_name_tag=lambda name: (name.partition(".")[0], ""),
        get_pretrained_cfg=lambda name: SimpleNamespace(to_dict=lambda: config),
    )
    return _module(
        "timm",
        **{"__version__": "0", "is_model": lambda name: name == "tiny", "list_models": lambda text: ["tiny"]},
        **{"create_model": create_model, "models": models},
    )


@pytest.fixture
def folder(tmp_path: Path, _libraries: None) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_a_folder_of_transformers_is_found_with_inputs_and_sizes(folder: Path) -> None:
    model = catalog.find(f"hf:{folder}")
    assert [tensor.name for tensor in model.inputs] == ["input_ids", "attention_mask"]
    assert model.sizes == {"sequence": Range(8, 16, 16)}
    assert (model.factory, model.outputs, dict(model.options)) == (f"hf:{folder}", (), {})
    assert model.name == folder.name


def test_it_is_built_without_a_cache_and_says_how_it_attends(folder: Path) -> None:
    built = build.build(catalog.find(f"hf:{folder}"))
    assert isinstance(built.module, TinyModel)
    assert not built.module.config.use_cache
    assert built.module.config.return_dict
    assert "sdpa" in built.remarks[0]
    masks = sys.modules["transformers.masking_utils"]
    assert masks._ignore_bidirectional_mask_sdpa(torch.ones(1)) is False


def test_weights_that_the_folder_lacks_are_said_to_be_random(folder: Path) -> None:
    (folder / "partial").touch()
    assert "encoder.weight" in build.build(catalog.find(f"hf:{folder}")).remarks[1]
    (folder / "model.safetensors").unlink()
    assert "no weights" in build.build(catalog.find(f"hf:{folder}")).remarks[1]


def test_attention_falls_back_to_eager_where_a_part_has_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TinyModel.from_pretrained

    def only_eager(path: str, **options: Any) -> Any:
        if options["attn_implementation"] == "sdpa":
            raise ValueError("no sdpa")
        return original(path, **options)

    monkeypatch.setattr(TinyModel, "from_pretrained", only_eager)
    assert "eager" in build.build(catalog.find(f"hf:{folder}")).remarks[0]


def test_a_part_is_exported_by_its_name(folder: Path) -> None:
    made = doors.make(f"hf:{folder}", {"part": "encoder"})
    assert isinstance(made.module, nn.Embedding)
    with pytest.raises(BadInput, match="no part neck") as refused:
        doors.make(f"hf:{folder}", {"part": "neck"})
    assert "encoder" in refused.value.remedy


def test_code_of_its_own_is_refused_without_trust(folder: Path) -> None:
    content = {**CONFIG, "model_type": "own", "auto_map": {"AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="Python code") as refused:
        catalog.find(f"hf:{folder}")
    assert "--trust-code" in refused.value.remedy
    assert dict(catalog.find(f"hf:{folder}", trust_code=True).options) == {"trust_code": True}


def test_the_files_of_a_folder_are_its_sources(folder: Path) -> None:
    (folder / "README.md").touch()
    assert [file.name for file in factory.source_files(f"hf:{folder}")] == ["config.json", "model.safetensors"]
    assert factory.project_folder(f"hf:{folder}") == folder


@pytest.mark.parametrize(
    ("reference", "problem", "remedy"),
    [
        ("hf:org/name", "not in the local cache", "hf download org/name"),
        ("hf:./nowhere", "has no config.json", "save_pretrained"),
        ("timm:tinny", "no model 'tinny'", "did you mean tiny"),
    ],
)
@pytest.mark.usefixtures("_libraries")
def test_what_is_not_here_is_refused_with_a_remedy(reference: str, problem: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=problem) as refused:
        catalog.find(reference)
    assert remedy in refused.value.remedy


def test_an_unknown_argument_is_refused_with_those_there_are(folder: Path) -> None:
    with pytest.raises(BadInput, match="--arg depth") as refused:
        catalog.find(f"hf:{folder}", arguments={"depth": 2})
    assert "part" in refused.value.remedy


@pytest.mark.usefixtures("_libraries")
def test_a_model_of_timm_has_its_configuration_and_says_that_its_weights_are_random() -> None:
    model = catalog.find("timm:tiny", arguments={"in_chans": 1})
    assert model.inputs[0].shape == ("batch", 1, 64, 64)
    assert (model.preprocessing.resize, model.classes) == (64, ("cat", "dog"))
    built = build.build(model)
    assert built.remarks == (
        "tiny: the weights of timm:tiny are not in the local cache, and random instead: --weights FILE loads some",
    )
    with pytest.raises(BadInput, match="no depth"):
        doors.make("timm:tiny", {"depth": 2})


@pytest.mark.parametrize("reference", ["hf:org/name", "timm:resnet18"])
def test_without_the_library_the_extra_is_named(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "timm", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in doors.HUBS.values():
        monkeypatch.delitem(sys.modules, f"deploytool.loading.hub.{name}", raising=False)
    with pytest.raises(MissingBackend, match=r"transformers|timm") as refused:
        catalog.find(reference)
    assert refused.value.remedy == "pip install 'deploytool[hub]'"


@pytest.mark.parametrize(
    ("reference", "public"),
    [
        ("hf:org/name", "hf:org/name"),
        ("timm:resnet18.tag", "timm:resnet18.tag"),
        ("hf:/home/me/my model", "hf:my_model"),
    ],
)
def test_a_bundle_names_no_folder_of_this_machine(reference: str, public: str) -> None:
    assert doors.public_reference(reference) == public


@pytest.mark.integration
def test_a_folder_is_exported_and_a_change_in_it_is_noticed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("run")
    run = deploytool.export(f"hf:{folder}", quick=True, to="onnx", out=home).check()
    assert run.onnx is not None
    assert [value.name for value in onnx.load(run.onnx).graph.input] == ["input_ids", "attention_mask"]
    runner.check_source(home)
    again = deploytool.export(f"hf:{folder}", quick=True, to="onnx", out=home)
    assert not any(artifact.fresh for artifact in again.artifacts)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "max_position_embeddings": 12}))
    with pytest.raises(BadInput, match=r"config\.json has changed since"):
        runner.check_source(home)
    changed = deploytool.export(f"hf:{folder}", quick=True, to="onnx", out=home)
    assert all(artifact.fresh for artifact in changed.artifacts)
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(BadInput, match=r"model\.safetensors has changed since"):
        runner.check_source(home)
