"""Runs a TorchScript file with torch; torch has deprecated the format, but users still need it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from deploytool.backends.eager import checked_device, fingerprint, full_fp32
from deploytool.backends.session import Array, Session, checked_outputs, in_batches, run_failure, until_end

__all__ = ["fingerprint", "start"]


@contextmanager
def start(path: Path, device: str = "cpu") -> Iterator[Session]:
    """Loads a TorchScript file, which stores the names of its inputs and outputs itself."""
    stored: dict[str, bytes] = {"inputs": b"", "outputs": b"", "batch": b""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # all of torch.jit is deprecated: known, see above
        script = torch.jit.load(path, map_location=checked_device(device), _extra_files=stored)  # type: ignore[no-untyped-call]  # torch.jit has no types
    input_names, output_names = (stored[key].decode().split() for key in ("inputs", "outputs"))

    def call(**inputs: Array) -> dict[str, Array]:
        try:
            with torch.inference_mode():
                result = script(*(torch.tensor(inputs[name]).to(device) for name in input_names))
        except RuntimeError as error:  # its message has the stack first and the reason last
            raise run_failure("TorchScript", inputs, str(error).strip().splitlines()[-1]) from error
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        outputs = {name: tensor.cpu().numpy() for name, tensor in zip(output_names, tensors, strict=True)}
        return checked_outputs("TorchScript", inputs, outputs)

    batch = [int(stored["batch"])] if stored["batch"] else []
    with full_fp32(), until_end(in_batches(call, batch)) as session:
        yield session
