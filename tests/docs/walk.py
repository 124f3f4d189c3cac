"""Runs the code blocks of a page in one folder, in order, each once."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from deploytool.host import machine
from tests import warm
from tests.conftest import PYTHONPATH
from tests.docs.pages import Block, blocks, runnable, same
from tests.training.conftest import noise_images, write_cifar

RUN, QUICK_RUN = "artifacts/shufflenet_g3", "artifacts/mobilenet_v1_cifar"
_SHORTER = {"export": "--seconds 0.1", "bench": "--seconds 0.1", "faults": "--faults 2"}


class Walk:
    """Runs the blocks of one page in `folder`; `printed` and `failures` hold the results."""

    def __init__(self, page: Path, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.printed: dict[Block, str] = {}
        self.failures: dict[Block, str] = {}
        self._blocks = [block for block in blocks() if block.page == page and runnable(block)]
        self._settings = settings(programs)

    def upto(self, block: Block) -> str:
        """Runs the page up to this block; returns the failure of the block itself, or an empty string."""
        for earlier in self._blocks[: self._blocks.index(block) + 1]:
            if earlier not in self.failures:
                self.failures[earlier] = self._run(earlier)
        return self.failures[block]

    def _run(self, block: Block) -> str:
        output = ""
        for step in block.steps:
            done = call(step.command, block.language, self.folder, self._settings)
            output += done.stdout
            if done.returncode:
                return f"{step.command}\nended with {done.returncode}\n{done.stdout}{done.stderr}"
            if step.printed is not None and not machine.gpus() and not same(step.printed, done.stdout):
                return f"{step.command}\nprinted something other than the page shows:\n{done.stdout}"
        self.printed[block] = output
        return ""


def call(command: str, language: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a command in a shell, or a program in Python; commands that measure are shortened."""
    arguments = ["python", "-c", command] if language == "python" else ["bash", "-c", shortened(command)]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def shortened(command: str) -> str:
    """The command with an option for a shorter measurement, unless it already has one."""
    verb = re.match(r"deploytool (\w+)", command)
    option = _SHORTER.get(verb[1], "") if verb else ""
    if verb is None or not option or "--quick" in command or option.split()[0] in command:
        return command
    return f"{verb[0]} {option}{command[verb.end() :]}"


def settings(programs: Path) -> dict[str, str]:
    """The environment of a reader who has installed deploytool."""
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": PYTHONPATH, "COLUMNS": "120", "NO_COLOR": "1"}


def install(programs: Path, warmed: str) -> None:
    """Puts `python` and `deploytool` into a folder; the process at `warmed` runs modules and programs (-m, -c)."""
    fork, start = shlex.join(warm.command(warmed)), shlex.quote(sys.executable)
    python = f'case "$1" in -m | -c) exec {fork} "$@" ;; *) exec {start} "$@" ;; esac'
    for name, line in (("python", python), ("deploytool", f'exec {fork} -m deploytool "$@"')):
        file = programs / name
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)


def supply(folder: Path, programs: Path) -> None:
    """Creates the files that the pages need: those they show, photographs, trained weights, and two finished runs."""
    for block in blocks():
        if block.file and block.file != "deploytool.toml":  # which would change every command of the pages
            (folder / block.file).write_text(block.text, encoding="utf-8")
    _photographs(folder)
    (folder / "cifar-10-batches-bin").mkdir()
    write_cifar(folder / "cifar-10-batches-bin", noise_images(100), noise_images(40, seed=1))
    # most pages export the second model with other options: they reuse the stages that do not depend on these
    quick = f"deploytool export {Path(QUICK_RUN).name} --quick"
    for command in (f"deploytool export {Path(RUN).name} --trt", f"deploytool pack {RUN}", quick):
        done = call(command, "sh", folder, settings(programs))
        assert done.returncode == 0, done.stderr
    torch.save(load_file(folder / RUN / "load" / "weights.safetensors"), folder / "shufflenet_g3.pth")


def _photographs(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("photographs/cat", "photographs/dog"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(folder / name / f"{number}.png")
    shutil.copy(folder / "photographs" / "cat" / "0.png", folder / "photograph.jpg")
