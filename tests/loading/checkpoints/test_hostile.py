"""Hundreds of hostile files: none loads, none runs code, none needs much memory, each is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save

from deploytool.errors import BadInput
from deploytool.loading import checkpoints
from tests.conftest import ROOT, TINY
from tests.loading.checkpoints import hostile

# Refuses every file named on stdin and prints, as JSON, what was said and the growth of the peak memory in MiB. The
# peak is VmHWM and not getrusage's ru_maxrss, which a child inherits from the process that started it.
CHILD = """
import json, re, sys
from pathlib import Path
from deploytool.loading import checkpoints
from deploytool.errors import BadInput
from tests.conftest import TINY

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

good, *paths = map(Path, json.load(sys.stdin))
checkpoints.load(good, TINY)
before, said = peak(), {}
for path in paths:
    try:
        checkpoints.load(path, TINY)
    except BadInput as refusal:
        said[path.name] = [str(refusal), refusal.remedy]
print(json.dumps([peak() - before, said]))
"""

Refusals = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe") / "sang"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> list[Path]:
    return hostile.write_all(tmp_path_factory.mktemp("hostile"), probe)


@pytest.fixture(scope="module")
def outcome(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Refusals]:
    good = tmp_path_factory.mktemp("good") / "tiny.pth"
    good.write_bytes(hostile.saved(hostile.state()))
    names = json.dumps([str(path) for path in (good, *paths)])
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, input=names, capture_output=True, text=True, check=True
    )
    growth_mib, said = json.loads(done.stdout)
    return growth_mib, said


def test_each_is_refused_in_one_line(paths: list[Path], outcome: tuple[float, Refusals]) -> None:
    _, said = outcome
    assert len(paths) > 300
    assert sorted(said) == sorted(path.name for path in paths)
    for name, (problem, remedy) in said.items():
        assert problem, name
        assert len(problem.splitlines()) == len(remedy.splitlines()) == 1, name
        assert len(problem) < 250, name


def test_none_runs_its_code(outcome: tuple[float, Refusals], probe: Path) -> None:
    assert len(outcome[1]) > 0
    assert not probe.exists()


def test_refusing_all_of_them_takes_little_memory(outcome: tuple[float, Refusals]) -> None:
    assert outcome[0] < 64


def test_the_payloads_are_live_where_code_is_trusted(tmp_path: Path) -> None:
    probe = tmp_path / "sang"
    for name, content in hostile.payloads(probe):
        if name in ("payload-system.pth", "payload-exec-2.pkl", "payload-popen-beside.pth"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(BadInput):
                checkpoints.load(tmp_path / name, TINY)
            assert not probe.exists()
            with pytest.raises(BadInput):
                checkpoints.load(tmp_path / name, TINY, trust_code=True)
            probe.unlink()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("flipped-0.pth", "the checkpoint is damaged: 'archive/data/0' does not match its checksum"),
        ("cut-20.pth", "the checkpoint is cut short: the list of its entries is missing"),
        ("cut-20.safetensors", "the checkpoint is damaged: reading it ends in SafetensorError"),
        ("payload-system.pth", "this is a torch file of more than tensors (it names 'posix.system'), and loading it"),
        ("payload-exec-2.pkl", "this is an old-style pickle, and loading it runs its code"),
        ("bomb-deflate.pth", "is compressed, which torch never does"),
        ("bomb-overlap.pth", "the checkpoint claims to hold more than its"),
        ("bomb-expanded.pth", "'stem.0.weight' is not an ordinary tensor of numbers in the file"),
        ("bomb-bytearray.pth", "(it names 'builtins.bytearray')"),
        ("header-4294967296.safetensors", "the checkpoint claims a header of 4,294,967,296 bytes, which cannot be"),
        ("odd-none.pth", "'stem.0.weight' is of type NoneType, not a tensor"),
        ("odd-file-list.pth", "the checkpoint is of type list, not a state dict"),
        ("pointer.pth", "this is a git-LFS pointer, not the checkpoint itself"),
        ("page-0.safetensors", "this is a web page, not a checkpoint"),
        ("empty.pt", "the checkpoint is an empty file"),
        ("zip-document.pth", "this zip archive was not written by torch: it has no data.pkl"),
        ("other-2.pth", r"this is no checkpoint: it begins with b'\x89HDF\r\n\x1a\n'"),
    ],
)
def test_each_kind_has_its_own_words(name: str, problem: str, outcome: tuple[float, Refusals]) -> None:
    assert problem in outcome[1][name][0]


def test_a_flip_anywhere_in_a_safetensors_header_breaks_it_or_changes_nothing(tmp_path: Path) -> None:
    good = save(hostile.state())
    path = tmp_path / "flipped.safetensors"
    refused = 0
    for place in range(0, 8 + int.from_bytes(good[:8], "little"), 5):
        spoilt = bytearray(good)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        try:
            loaded = checkpoints.load(path, TINY).state
        except BadInput:
            refused += 1
        else:
            assert all(loaded[key].equal(tensor) for key, tensor in hostile.state().items()), place
    assert refused > 100


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(BadInput, match="there is no file"):
            checkpoints.load(path, TINY)
