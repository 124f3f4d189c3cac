"""Reads runs, bundles, install roots, archives and registries independently of deploytool's code.

Each function returns an identifier of a complete artifact, "" if there is none, and raises AssertionError if it is
incomplete.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OCI = "application/vnd.oci.image.manifest.v1+json"
UNLISTED = {"manifest.json", "model.sig", "subset.json"}


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def bundle(folder: Path) -> str:
    """The digest of a complete bundle folder."""
    if not folder.exists():
        return ""
    assert (folder / "manifest.json").is_file(), f"{folder} has no manifest"
    raw = (folder / "manifest.json").read_bytes()
    document = json.loads(raw)
    listed = {file["path"]: file for file in (*document["files"], *(engine["file"] for engine in document["engines"]))}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - UNLISTED
    assert present == set(listed), f"{folder} lacks or has extra files: {present ^ set(listed)}"
    for path, file in listed.items():
        content = (folder / path).read_bytes()
        assert (len(content), sha256(content)) == (file["size"], file["sha256"]), f"{folder / path} has other bytes"
    return sha256(raw)


def root(folder: Path) -> str:
    """The digest of the current bundle of an install root; the current and the previous bundle must be complete."""
    if not (folder / "current").exists():
        return ""
    pointer = json.loads((folder / "current").read_bytes())
    for digest in (pointer["current"], pointer["previous"]):
        if digest is not None:
            assert bundle(folder / "bundles" / digest) == digest, f"{folder} points to {digest}, which is missing"
    return str(pointer["current"])


def received(folder: Path) -> set[str]:
    """The digests of the bundles that a device has received."""
    received_folder = folder / "received"
    if not received_folder.is_dir():
        return set()
    bundles = [path for path in received_folder.iterdir() if path.name[0] != "."]
    for path in bundles:
        assert bundle(path) == path.name, f"{path} is another bundle"
    return {path.name for path in bundles}


def archive(path: Path) -> str:
    """The digest of the bundle in an archive."""
    if not path.exists():
        return ""
    with tarfile.open(path, "r:") as tar:
        blobs = {member.name: _member(tar, member) for member in tar if member.isfile()}
    (entry,) = json.loads(blobs["index.json"])["manifests"]
    return _artifact(lambda digest: blobs[f"blobs/{digest.replace(':', '/')}"], entry["digest"])


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def registry(base: str, name: str, tag: str) -> str:
    """The digest of the bundle that a tag names."""
    try:
        request = urllib.request.Request(f"{base}/v2/{name}/manifests/{tag}", headers={"Accept": _OCI})
        with urllib.request.urlopen(request, timeout=30) as response:
            raw = response.read()
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise AssertionError(str(error)) from error
        return ""

    def blob(digest: str) -> bytes:
        with urllib.request.urlopen(f"{base}/v2/{name}/blobs/{digest}", timeout=30) as response:
            return bytes(response.read())

    return _artifact(lambda digest: raw if digest.endswith(sha256(raw)) else blob(digest), f"sha256:{sha256(raw)}")


def _artifact(blob: Callable[[str], bytes], digest: str) -> str:
    """The digest of a bundle in an OCI artifact whose blobs are all present."""
    document = json.loads(blob(digest))
    contents: dict[str, bytes] = {}
    for layer in (document["config"], *document["layers"]):
        raw = blob(layer["digest"])
        assert layer["digest"] == f"sha256:{sha256(raw)}", f"{layer} has other bytes"
        contents[layer.get("annotations", {}).get("org.cncf.model.filepath", "")] = raw
    manifest: dict[str, Any] = json.loads(contents["manifest.json"])
    files = (*manifest["files"], *(engine["file"] for engine in manifest["engines"]))
    assert all(sha256(contents[file["path"]]) == file["sha256"] for file in files)
    return sha256(contents["manifest.json"])


def stages(out: Path) -> str:
    """The digest of the receipts of a run whose stages are complete and consistent with their parents."""
    if not out.exists():
        return ""
    receipts = {path.parent.name: json.loads(path.read_bytes()) for path in out.glob("*/receipt.json")}
    for stage, receipt in receipts.items():
        for name, digest in receipt["files"].items():
            assert sha256((out / stage / name).read_bytes()) == digest, f"{out / stage / name} has other bytes"
        for parent, key in receipt["parents"].items():
            assert receipts[parent]["key"] == key, f"{stage} was made from another {parent}"
    return sha256(json.dumps({stage: receipt["files"] for stage, receipt in sorted(receipts.items())}).encode())


def built(folder: Path) -> str:
    """Returns "proved" if there is an engine next to a bundle with a passed trial, and "" otherwise."""
    records = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not records:
        return ""
    (record,) = (json.loads(path.read_bytes()) for path in records)
    raw = (folder / record["file"]["path"]).read_bytes()
    assert (len(raw), sha256(raw)) == (record["file"]["size"], record["file"]["sha256"]), "the engine has other bytes"
    return "proved" if record["trial"] else ""
