"""Loads checkpoint formats that contain code, which runs it: only with `--trust-code`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import torch

from deploytool.loading.checkpoints.file_formats import Format


def _torchscript(file: BinaryIO) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated
        return torch.jit.load(file, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]  # torch.jit has no types


def _exported(file: BinaryIO) -> object:
    return dict(torch.export.load(file).state_dict)


def _pickled(file: BinaryIO) -> object:
    return torch.load(file, map_location="cpu", weights_only=False)


OPENERS: Mapping[Format, Callable[[Any], object]] = {
    Format.TORCHSCRIPT: _torchscript,
    Format.EXPORTED: _exported,
    Format.MODULE: _pickled,
    Format.OBJECT: _pickled,
    Format.OLD_PICKLE: _pickled,
}
