from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    Manifest,
    Role,
    all_files,
    check_files,
    content_digest,
    engine_recipe,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from deploytool.errors import Refused
from deploytool.host import files

PART = ("tolerances", "fp16", "parts", 0, "part")


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


def test_a_written_manifest_reads_back_equal(packed: Path, tmp_path: Path) -> None:
    manifest = read_manifest(packed)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert (tmp_path / "manifest.json").read_bytes() == (packed / "manifest.json").read_bytes()
    assert manifest.schema == "deploytool.bundle/6"


@pytest.mark.parametrize("memory_mib", [0, -1, 8193, 1.5, True, "64"])
def test_an_invalid_memory_of_a_graph_is_refused(copy: Path, memory_mib: object) -> None:
    data = json.loads((copy / "manifest.json").read_text())
    data["graphs"][0]["memory_mib"] = memory_mib
    (copy / "manifest.json").write_text(serde.text(data))
    with pytest.raises(Refused, match="memory"):
        read_manifest(copy)
    data["graphs"][0]["memory_mib"] = None
    (copy / "manifest.json").write_text(serde.text(data))
    assert read_manifest(copy).graphs[0].memory_mib is None


def test_the_manifest_lists_every_other_file_with_its_role(packed: Path) -> None:
    manifest = read_manifest(packed)
    present = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert {file.path for file in all_files(manifest)} == present - {"manifest.json"}
    assert {file.role for file in all_files(manifest)} == set(Role) - {Role.WEIGHTS, Role.TOOL}


def test_the_content_digest_excludes_engines_and_the_manifest_digest_nothing(packed: Path, tmp_path: Path) -> None:
    manifest = read_manifest(packed)
    (engine,) = manifest.engines
    changed = dataclasses.replace(engine, file=dataclasses.replace(engine.file, sha256="0" * 64))
    rebuilt = dataclasses.replace(manifest, engines=(changed,))
    write_manifest(tmp_path, rebuilt)
    assert content_digest(rebuilt) == content_digest(manifest)
    assert manifest_digest(tmp_path) != manifest_digest(packed)
    assert content_digest(dataclasses.replace(manifest, sequence=7)) != content_digest(manifest)


def test_a_signature_is_the_only_unlisted_file_accepted(copy: Path) -> None:
    (copy / SIGNATURE_FILE).write_text("{}")
    check_files(copy, read_manifest(copy))
    (copy / "model.sig2").write_text("{}")
    with pytest.raises(Refused, match="is not in the manifest"):
        check_files(copy, read_manifest(copy))


@pytest.mark.parametrize("path", ["recipe.json", "golden"])
@pytest.mark.parametrize("kind", ["link", "pipe", "other"])
def test_file_types_are_checked_before_any_file_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(files, "verify_file", fail)
    target, original = copy / path, copy.with_name("kept")
    target.rename(original)
    if kind == "link":
        target.symlink_to(original)
    elif kind == "pipe":
        os.mkfifo(target)
    elif original.is_dir():
        target.write_bytes(b"x")
    else:
        target.mkdir()
    with pytest.raises(Refused, match=f"{path} is not a regular file"):
        check_files(copy, read_manifest(copy))


def test_only_engines_named_as_absent_may_be_missing(copy: Path) -> None:
    manifest = read_manifest(copy)
    path = manifest.engines[0].file.path
    (copy / path).unlink()
    with pytest.raises(Refused, match="is missing"):
        check_files(copy, manifest)
    check_files(copy, manifest, absent=[path])


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        (("sequence",), -1, "its sequence is negative"),
        (("sequence",), True, "sequence is True, and should be an integer"),
        (("files", 0, "path"), "../x", "is not a path in a bundle"),
        (("files", 0, "path"), "model.sig", "is not a path in a bundle"),
        (("files", 0, "path"), "GOLDEN/case_1.png", "it lists a file twice"),
        (("files", 0, "size"), 1.5, "size is 1.5, and should be an integer"),
        (("files", 0, "sha256"), "A" * 64, "has no valid size or digest"),
        (("golden", "path"), "engines/none", "it refers to engines/none"),
        (("recipe",), "none.json", "it refers to none.json"),
        (("free", "batch", "largest"), 0, "a dynamic dimension has no valid range"),
        (("free",), {}, "a dynamic dimension has no valid range"),
        (("tolerances", "fp16", "max_error"), "1", "max_error is '1', and should be a number"),
        (("tolerances",), {}, "a precision has no tolerance"),
        (("inputs",), [], "it has no inputs or no outputs"),
        (("graphs",), [], "it has no graph"),
        (("engines", 0, "version"), 10, "version is 10, and should be a string"),
        (("engines", 0, "file", "role"), "graph", "an engine is listed as something else"),
        (("schema",), "deploytool.bundle/9", "is a bundle of another schema"),
        (("files", 0, "size"), -1, "has no valid size or digest"),
        (("outputs",), [], "it has no inputs or no outputs"),
        (("classes",), ["cat\x1b[2J"], "the name of a class is not printable"),
        (("free", "batch", "largest"), 1 << 31, "a dynamic dimension has no valid range"),
        (("free",), {"H": {"smallest": 1, "typical": 8, "largest": 32}}, "a dynamic dimension has no valid range"),
        (("preprocessing", "crop"), 4097, "its preprocessing is invalid"),
        (("preprocessing", "crop"), [32, -1], "its preprocessing is invalid"),
        (("preprocessing", "resize"), [4097, 32], "its preprocessing is invalid"),
        (("preprocessing", "mean"), [0.5, 0.5], "its preprocessing is invalid"),
        (("preprocessing", "std"), [], "its preprocessing is invalid"),
        (("preprocessing", "std"), [0.5, 0.0, 0.5], "its preprocessing is invalid"),
        (("preprocessing", "channels"), "GBR", "its preprocessing is invalid"),
        (("preprocessing", "layout"), "CHWN", "its preprocessing is invalid"),
        ((*PART, "axis"), 64, "a part of an output is invalid"),
        ((*PART, "spans"), [[0, 1]], "a part of an output is invalid"),
    ],
)
def test_invalid_values_are_refused(copy: Path, keys: tuple[str | int, ...], value: object, problem: str) -> None:
    data = json.loads((copy / "manifest.json").read_text())
    parent = data
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    (copy / "manifest.json").write_text(serde.text(data))
    with pytest.raises(Refused, match=problem):
        read_manifest(copy)


@pytest.mark.parametrize(
    ("axis", "size", "spans"), [(1, 4, [[2, 5]]), (1, 4, [[-1, 2]]), (1, 4, [[2, 2]]), (1, 4, []), (0, 4, [[0, 2]])]
)
def test_a_part_with_channels_outside_the_output_is_refused(
    copy: Path, axis: int, size: int, spans: list[list[int]]
) -> None:
    data = json.loads((copy / "manifest.json").read_text())
    part = data["tolerances"]["fp16"]["parts"][0]["part"]
    part.update(axis=1, size=4, spans=[[0, 2], [3, 4]])
    (copy / "manifest.json").write_text(serde.text(data))
    read_manifest(copy)
    part.update(axis=axis, size=size, spans=spans)
    (copy / "manifest.json").write_text(serde.text(data))
    with pytest.raises(Refused, match="a part of an output is invalid"):
        read_manifest(copy)


@pytest.mark.parametrize("text", ["", "[]", "null", "NaN", "{}", "[" * 100_000, '{"schema": "other/1"}'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(Refused):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_manifest_above_the_size_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(Refused, match="is longer than"):
        read_manifest(tmp_path)


def test_the_engine_recipe_gives_the_trtexec_command(packed: Path) -> None:
    manifest: Manifest = read_manifest(packed)
    recipe = engine_recipe(packed, manifest)
    assert recipe.graph == "models/tiny_fp16/1/model.onnx"
    assert recipe.trtexec == (
        "trtexec --onnx=models/tiny_fp16/1/model.onnx --minShapes=input:1x3x32x32 --optShapes=input:8x3x32x32 "
        "--maxShapes=input:32x3x32x32 --stronglyTyped --saveEngine=model.plan"
    )
