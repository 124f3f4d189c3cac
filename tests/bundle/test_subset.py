"""Subsets of a bundle: engines for other targets may be missing, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.bundle import subset
from deploytool.bundle.manifest import SUBSET_FILE, read_manifest
from deploytool.bundle.subset import Subset
from deploytool.device import candidates, install, verify
from deploytool.device.environment import Environment
from deploytool.errors import BadInput, Refused
from tests.transfer import small

ON_RTX40 = Environment("linux", "x86_64", "RTX 4090", "8.9", "13.0", {"tensorrt": "10.3.0"})


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """A bundle as it was fetched for orin."""
    folder = small.make_bundle(tmp_path / "part", 1)
    (folder / small.RTX40).unlink()
    (folder / SUBSET_FILE).write_text(serde.text(Subset("orin", "8.7")))
    return folder


def test_a_subset_is_parsed_from_a_known_target() -> None:
    assert subset.parse(None) is None
    assert subset.parse("orin") == Subset("orin", "8.7")
    assert subset.parse("h200") == Subset("h200", "9.0")
    with pytest.raises(BadInput, match="there is no target 'xavier'"):
        subset.parse("xavier")


def test_engines_for_other_capabilities_are_omitted(tmp_path: Path) -> None:
    manifest = read_manifest(small.make_bundle(tmp_path / "in", 2))
    assert subset.omitted_engines(manifest, None) == frozenset()
    assert subset.omitted_engines(manifest, subset.parse("orin")) == {small.RTX40}
    assert subset.omitted_engines(manifest, subset.parse("thor")) == {small.ORIN, small.RTX40}


def test_a_subset_is_verified_and_installed(fetched: Path, tmp_path: Path) -> None:
    assert "left out" in verify.check_integrity(fetched).steps[0].status
    pointer = install.install(fetched, tmp_path / "root", lambda checked: None)
    assert small.contents(install.bundle_path(tmp_path / "root", pointer.current)) == small.contents(fetched)


@pytest.mark.parametrize("path", [small.ORIN, "recipe.json", "models/m/1/model.onnx", "golden/golden.npz", SUBSET_FILE])
def test_any_other_missing_file_is_refused(fetched: Path, path: str) -> None:
    (fetched / path).unlink()
    with pytest.raises(Refused, match="is missing"):
        verify.check_integrity(fetched)


def test_an_omitted_engine_is_unavailable_even_on_a_matching_gpu(fetched: Path) -> None:
    manifest = read_manifest(fetched)
    no_engine = candidates.unavailable(candidates.Tier.BUILT, "none")
    reasons = {
        candidate.absent
        for candidate in candidates.candidates(fetched, manifest, ON_RTX40, no_engine)
        if candidate.tier == candidates.Tier.ENGINE
    }
    assert "it was left out when the bundle was fetched" in reasons
    assert None not in reasons
    assert verify.target_step(fetched, manifest, ON_RTX40).status.startswith("no engine for this machine")


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{}", b"[]", b'{"capability": "8.7", "target": "orin"}', b"\xff", b" " * 5000, b"[" * 3000),
        serde.text({"capability": 8.7, "target": "orin"}).encode(),
        serde.text({"capability": ["8.7"], "target": ["orin"]}).encode(),
        serde.text(Subset("\x1b[2Jorin", "8.7")).encode(),
        serde.text(Subset("orin\nheld", "8.7")).encode(),
        serde.text({"capability": "8.7", "target": "orin", "absent": ["recipe.json"]}).encode(),
    ],
)
def test_a_malformed_subset_file_is_refused(fetched: Path, raw: bytes) -> None:
    (fetched / SUBSET_FILE).write_bytes(raw)
    with pytest.raises(Refused):
        verify.check_integrity(fetched)


def test_a_subset_file_above_the_size_limit_is_refused(fetched: Path) -> None:
    (fetched / SUBSET_FILE).write_bytes(b" " * 5000)
    with pytest.raises(Refused, match="is longer than"):
        subset.read(fetched)


def test_a_linked_subset_file_is_refused(fetched: Path) -> None:
    (fetched / SUBSET_FILE).rename(fetched.with_name("kept"))
    (fetched / SUBSET_FILE).symlink_to(fetched.with_name("kept"))
    with pytest.raises(Refused):
        verify.check_integrity(fetched)


def test_the_subset_file_contains_target_and_capability_only(fetched: Path) -> None:
    assert json.loads((fetched / SUBSET_FILE).read_text()) == {"capability": "8.7", "target": "orin"}
