"""Models of transformers: `hf:ORG/NAME` from the local cache, or `hf:./folder`; nothing is downloaded."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import dynamic_module_utils, masking_utils

from deploytool.errors import BadInput
from deploytool.host import exception_text
from deploytool.loading.hub import config_images, config_inputs, doors
from deploytool.loading.hub.config_inputs import Description
from deploytool.loading.hub.doors import HubModule
from deploytool.spec import Model, Option

_CONFIG = "config.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SUFFIXES = {".json", ".safetensors", ".bin", ".py"}  # of the files that a model is made from
_MASK_SHORTCUTS = ("_ignore_bidirectional_mask_sdpa", "_ignore_causal_mask_sdpa")  # functions of masking_utils
_MAX_BYTES = 16 << 20  # of a configuration
_TRUST = "trust_code"
_ARGUMENTS = {
    "architecture": "a model class of transformers",
    "part": "a submodule, such as encoder",
    "attention": "eager or sdpa",
    _TRUST: "as --trust-code",
}


def describe(name: str, arguments: Mapping[str, Option], *, trust_code: bool) -> Model:
    """The definition of a model, from its configuration; raises BadInput if it is not on this machine.

    A model with code of its own is refused without `trust_code`.
    """
    doors.check_arguments(f"hf:{name}", arguments, _ARGUMENTS)
    options = {**arguments, **({_TRUST: True} if trust_code and _has_code(_folder(name)) else {})}
    config = _config(name, options)
    described = _description(name, config, options)
    found = config_inputs.inputs(described, f"hf:{name}")
    images = any(tensor.name == "pixel_values" for tensor in found)
    processor = described.processor if images else {}
    return Model(
        doors.model_name(str(_folder(name).resolve()) if doors.is_path(name) else name),
        f"hf:{name}",
        options=options,
        inputs=found,
        outputs=(),
        preprocessing=config_images.of_processor(processor, config_inputs.image_size(described)),
        classes=config_images.classes(described.config.get("id2label")),
        sizes=config_inputs.sizes(described, found),
    )


def make(name: str, arguments: Mapping[str, Option]) -> HubModule:
    """The model in FP32, without a cache of keys and values, with remarks about its attention and its weights."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _keep_masks()
    folder, config = _folder(name), _config(name, arguments)
    kind = _model_class(name, config, arguments)
    remarks = []
    module, attention, missing = _loaded(kind, folder, config, str(arguments.get("attention") or ""))
    remarks.append(f"attention is computed by the {attention} implementation of transformers")
    if missing is None:
        remarks.append(f"{folder} has no weights: they are random")
    elif missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        remarks.append(f"{folder} has no weights for {missing[0]}{more}: they are random")
    for file in files(name):  # safetensors opens files where no audit hook sees it: they are part of the cache key
        with file.open("rb"):
            pass
    for child in module.modules():
        settings: Any = getattr(child, "config", None)
        if hasattr(settings, "use_cache"):
            settings.use_cache = False
    return HubModule(_submodule(module, str(arguments.get("part") or ""), name).float(), tuple(remarks))


def _keep_masks() -> None:
    """Turns off the shortcuts that leave a mask out if no value of it is masked, which no exported graph has."""
    for name in _MASK_SHORTCUTS:
        if hasattr(masking_utils, name):
            setattr(masking_utils, name, lambda *_, **__: False)


def files(name: str) -> tuple[Path, ...]:
    """The files of the model: configuration, weights and code."""
    return tuple(sorted(file for file in _folder(name).iterdir() if file.is_file() and file.suffix in _SUFFIXES))


def folder(name: str) -> Path:
    """The folder of these files."""
    return _folder(name).resolve()


def _loaded(
    kind: Any, folder: Path, config: transformers.PretrainedConfig, attention: str
) -> tuple[torch.nn.Module, str, list[str] | None]:
    """The model, the implementation of its attention, and the names of weights that are not in the folder.

    There are no names if the folder has no weights at all. Unless an implementation is stated, it is `sdpa`, which is
    the fastest that both exporters take, and `eager` where a part of the model does not support that.
    """
    chosen = attention or ("sdpa" if getattr(kind, "_supports_sdpa", False) else "eager")
    options = {"config": config, "dtype": torch.float32, "attn_implementation": chosen}
    has_weights = any((folder / file).is_file() for file in _WEIGHTS)
    try:
        if not has_weights:
            config_options = {name: value for name, value in options.items() if name != "config"}
            return kind._from_config(config, **config_options), chosen, None
        module, info = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True, **options)
    except ValueError:
        if attention or chosen == "eager":
            raise
        return _loaded(kind, folder, config, "eager")
    return module, chosen, sorted(info["missing_keys"])


def _folder(name: str) -> Path:
    """The folder of a model: the one named, or its snapshot in the cache; raises BadInput if there is none."""
    if doors.is_path(name):
        path = Path(name).expanduser()
        if not (path / _CONFIG).is_file():
            raise BadInput(f"{path} is no model of transformers: it has no {_CONFIG}", "save it: save_pretrained()")
        return path
    try:
        found = try_to_load_from_cache(name, _CONFIG)
    except ValueError:  # of huggingface_hub, for a name that no repository can have
        raise BadInput(f"hf:{name} is no name of a model", "write hf:ORG/NAME, or hf:./FOLDER") from None
    if not isinstance(found, str):
        remedy = f"download it: hf download {name}; or give its folder: hf:./FOLDER"
        raise BadInput(f"{name} is not in the local cache of Hugging Face", remedy)
    return Path(found).parent


def _has_code(folder: Path) -> bool:
    """Whether a model names code of its own, which transformers would run."""
    return bool(_json(folder / _CONFIG).get("auto_map"))


def _config(name: str, arguments: Mapping[str, Option]) -> transformers.PretrainedConfig:
    """The configuration of a model; raises BadInput if it cannot be read, or needs code that is not trusted."""
    folder, trusted = _folder(name), bool(arguments.get(_TRUST))
    kind = _json(folder / _CONFIG).get("model_type")
    if _has_code(folder) and not trusted and kind not in transformers.CONFIG_MAPPING:
        problem = f"hf:{name} is defined by Python code in its folder, which runs when it is loaded"
        raise BadInput(problem, "read that code, and give --trust-code if you trust it")
    try:
        config: transformers.PretrainedConfig = transformers.AutoConfig.from_pretrained(
            str(folder), trust_remote_code=trusted, local_files_only=True
        )
    except Exception as error:  # transformers raises many types
        reason = exception_text.describe(error)
        raise BadInput(f"the configuration of hf:{name} cannot be read: {reason}", "check its files") from error
    config.return_dict = True
    return config


def _model_class(name: str, config: transformers.PretrainedConfig, arguments: Mapping[str, Option]) -> Any:
    """The class of a model: the one stated, that of its configuration, or the bare model of its type."""
    stated = arguments.get("architecture")
    architecture = str(stated or next(iter(config.architectures or ()), ""))
    if kind := getattr(transformers, architecture, None) if architecture else None:
        return kind
    code = getattr(config, "auto_map", None) or {}
    if bool(arguments.get(_TRUST)) and not stated and (automatic := next((key for key in code if "Model" in key), "")):
        return dynamic_module_utils.get_class_from_dynamic_module(
            code[automatic], str(_folder(name)), local_files_only=True
        )
    if stated or type(config) not in transformers.AutoModel._model_mapping:
        problem = f"transformers {transformers.__version__} has no model {architecture or config.model_type!r}"
        raise BadInput(problem, "name another: --arg architecture=CLASS, or install a newer release")
    found = transformers.AutoModel._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _description(name: str, config: transformers.PretrainedConfig, arguments: Mapping[str, Option]) -> Description:
    """What the model's files say about its inputs."""
    kind = _model_class(name, config, arguments)
    if part := str(arguments.get("part") or ""):
        with torch.device("meta"):
            kind = type(_submodule(kind._from_config(config), part, name))
    parameters = tuple(inspect.signature(kind.forward).parameters)[1:]
    main = str(getattr(kind, "main_input_name", ""))
    main = main if main in parameters else parameters[0]
    return Description(json.loads(json.dumps(config.to_dict(), default=str)), parameters, main, _processor(name))


def _processor(name: str) -> Mapping[str, Any]:
    """The configuration of the image processor or feature extractor; empty if there is none."""
    folder = _folder(name)
    stated: dict[str, Any] = next((content for file in _PROCESSORS if (content := _json(folder / file))), {})
    nested = next((stated[key] for key in ("image_processor", "feature_extractor") if key in stated), None)
    return nested if isinstance(nested, Mapping) else stated


def _submodule(module: torch.nn.Module, part: str, name: str) -> torch.nn.Module:
    if not part:
        return module
    try:
        return module.get_submodule(part)
    except AttributeError:
        inner = getattr(module, getattr(module, "base_model_prefix", ""), None)
        if isinstance(inner, torch.nn.Module) and inner is not module:
            return _submodule(inner, part, name)
        children = ", ".join(child for child, _ in module.named_children())
        raise BadInput(f"hf:{name} has no part {part}", f"its parts are: {children}") from None


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file, or no object in it."""
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
