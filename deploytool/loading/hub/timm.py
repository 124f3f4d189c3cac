"""Models of timm: `timm:NAME`, with pretrained weights if they are in the local cache; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache

from deploytool.errors import BadInput
from deploytool.host import exception_text
from deploytool.loading.hub import config_images, doors
from deploytool.loading.hub.doors import HubModule
from deploytool.spec import BATCH, Model, Option, Tensor

_FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository of timm
_SIZE = (3, 224, 224)


def describe(name: str, arguments: Mapping[str, Option], *, trust_code: bool) -> Model:
    """The definition of a model, from its pretrained configuration; raises BadInput for an unknown name."""
    config = _config(name)
    size = tuple(config.get("input_size") or _SIZE)
    channels, height, width = (arguments.get("in_chans") or size[0], *_image_size(arguments.get("img_size"), size))
    return Model(
        doors.model_name(name),
        f"timm:{name}",
        options=dict(arguments),
        inputs=(Tensor("input", (BATCH, int(channels), height, width)),),
        outputs=(),
        preprocessing=config_images.of_timm(config, (height, width)),
        classes=tuple(map(str, config.get("label_names") or ())),
    )


def make(name: str, arguments: Mapping[str, Option]) -> HubModule:
    """The model, pretrained if its weights are in the cache, otherwise with random ones and a remark."""
    weights = files(name)
    pretrained = arguments.get("pretrained") is not False and bool(weights)
    options = {option: value for option, value in arguments.items() if option != "pretrained"}
    for file in weights:  # safetensors opens files where no audit hook sees it: they are part of the cache key
        with file.open("rb"):
            pass
    try:
        module = timm.create_model(name, pretrained=pretrained, exportable=True, **options)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = exception_text.describe(error)
        raise BadInput(f"timm cannot create {name}: {reason}", "check the name and --arg") from error
    assert isinstance(module, torch.nn.Module)
    origin = "are random" if weights else "are not in the local cache, and random instead: --weights FILE loads some"
    return HubModule(module, () if pretrained else (f"the weights of timm:{name} {origin}",))


def files(name: str) -> tuple[Path, ...]:
    """The file with the pretrained weights; empty if it is not in the cache."""
    repository = _config(name).get("hf_hub_id")
    if not isinstance(repository, str):
        return ()
    repository = f"{repository}{timm.models.split_model_name_tag(name)[0]}" if repository.endswith("/") else repository
    found = (try_to_load_from_cache(repository, file) for file in _FILES)
    return tuple(Path(path) for path in found if isinstance(path, str))[:1]


def folder(name: str) -> None:
    """No folder: the code is that of timm."""
    return


def _config(name: str) -> dict[str, Any]:
    """The pretrained configuration of a model; raises BadInput for a name that timm does not have."""
    architecture = timm.models.split_model_name_tag(name)[0]
    if not timm.is_model(architecture):
        similar = timm.list_models(f"*{architecture[:6]}*")[:3]
        remedy = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists all"
        raise BadInput(f"timm {timm.__version__} has no model {name!r}", remedy)
    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise BadInput(f"timm: {exception_text.describe(error)}", "leave the tag after the dot out") from error
    return dict(found.to_dict()) if found else {}


def _image_size(stated: Option, size: tuple[int, ...]) -> tuple[int, int]:
    return (int(stated), int(stated)) if isinstance(stated, (int, float)) else (size[1], size[2])
