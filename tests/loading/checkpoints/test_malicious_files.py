"""Tests with hundreds of malicious files: each is refused in one line, without running code or using much memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save

from deploytool.errors import BadInput
from deploytool.loading.checkpoints import checkpoint
from tests.conftest import ROOT, TINY
from tests.loading.checkpoints import malicious_files

# Tries to load every file named on stdin; prints, as JSON, the errors and the growth of the peak memory in MiB. The
# peak is VmHWM, because a child inherits getrusage's ru_maxrss from its parent.
CHILD = """
import json, re, sys
from pathlib import Path
from deploytool.loading.checkpoints import checkpoint
from deploytool.errors import BadInput
from tests.conftest import TINY

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

good, *paths = map(Path, json.load(sys.stdin))
checkpoint.load(good, TINY)
before, errors = peak(), {}
for path in paths:
    try:
        checkpoint.load(path, TINY)
    except BadInput as error:
        errors[path.name] = [str(error), error.remedy]
print(json.dumps([peak() - before, errors]))
"""

Errors = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe") / "created"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> list[Path]:
    return malicious_files.write_all(tmp_path_factory.mktemp("malicious_files"), probe)


@pytest.fixture(scope="module")
def outcome(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Errors]:
    good = tmp_path_factory.mktemp("good") / "tiny.pth"
    good.write_bytes(malicious_files.saved(malicious_files.state()))
    names = json.dumps([str(path) for path in (good, *paths)])
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, input=names, capture_output=True, text=True, check=True
    )
    growth_mib, errors = json.loads(done.stdout)
    return growth_mib, errors


@pytest.mark.integration
def test_each_file_is_refused_in_one_line(paths: list[Path], outcome: tuple[float, Errors]) -> None:
    _, errors = outcome
    assert len(paths) > 300
    assert sorted(errors) == sorted(path.name for path in paths)
    for name, (problem, remedy) in errors.items():
        assert problem, name
        assert len(problem.splitlines()) == len(remedy.splitlines()) == 1, name
        assert len(problem) < 250, name


@pytest.mark.integration
def test_no_file_runs_its_code(outcome: tuple[float, Errors], probe: Path) -> None:
    assert len(outcome[1]) > 0
    assert not probe.exists()


def test_loading_all_files_uses_little_memory(outcome: tuple[float, Errors]) -> None:
    assert outcome[0] < 64


def test_the_payloads_run_with_trust_code(tmp_path: Path) -> None:
    probe = tmp_path / "created"
    for name, content in malicious_files.payloads(probe):
        if name in ("payload-system.pth", "payload-exec-2.pkl", "payload-popen-beside.pth"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(BadInput):
                checkpoint.load(tmp_path / name, TINY)
            assert not probe.exists()
            with pytest.raises(BadInput):
                checkpoint.load(tmp_path / name, TINY, trust_code=True)
            probe.unlink()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("flipped-0.pth", "the checkpoint is damaged: 'archive/data/0' does not match its checksum"),
        ("cut-20.pth", "the checkpoint is truncated"),
        ("cut-20.safetensors", "SafetensorError"),
        ("payload-system.pth", "this is a torch file of more than tensors (it references 'posix.system')"),
        ("payload-exec-2.pkl", "this is an old-style pickle, and loading it runs its code"),
        ("bomb-deflate.pth", "is compressed"),
        ("bomb-overlap.pth", "the entries of the checkpoint add up to more than its"),
        ("bomb-expanded.pth", "'stem.0.weight' is not a dense tensor"),
        ("bomb-bytearray.pth", "(it references 'builtins.bytearray')"),
        ("header-4294967296.safetensors", "a header of 4,294,967,296 bytes"),
        ("odd-none.pth", "'stem.0.weight' is of type NoneType, not a tensor"),
        ("odd-file-list.pth", "the checkpoint is of type list, not a state dict"),
        ("pointer.pth", "this is a git-LFS pointer, not the checkpoint itself"),
        ("page-0.safetensors", "this is a web page, not a checkpoint"),
        ("empty.pt", "the checkpoint is an empty file"),
        ("zip-document.pth", "it has no data.pkl"),
        ("other-2.pth", r"this is not a checkpoint: it begins with b'\x89HDF\r\n\x1a\n'"),
    ],
)
def test_the_error_describes_the_defect(name: str, problem: str, outcome: tuple[float, Errors]) -> None:
    assert problem in outcome[1][name][0]


def test_a_flipped_bit_in_a_safetensors_header_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    good = save(malicious_files.state())
    path = tmp_path / "flipped.safetensors"
    refused = 0
    for offset in range(0, 8 + int.from_bytes(good[:8], "little"), 5):
        corrupt = bytearray(good)
        corrupt[offset] ^= 1 << offset % 8
        path.write_bytes(corrupt)
        try:
            loaded = checkpoint.load(path, TINY).state
        except BadInput:
            refused += 1
        else:
            assert all(loaded[key].equal(tensor) for key, tensor in malicious_files.state().items()), offset
    assert refused > 100


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(BadInput, match="there is no file"):
            checkpoint.load(path, TINY)
