"""What somebody sees who looks at a run, a bundle, a root, an archive or a registry: code that shares nothing with us.

Each gives the name of what is there as a whole, "" where there is nothing, and raises AssertionError for half of it.
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
BESIDE = {"manifest.json", "model.sig", "subset.json"}


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def bundle(folder: Path) -> str:
    """The digest of a bundle of which every byte is there."""
    if not folder.exists():
        return ""
    assert (folder / "manifest.json").is_file(), f"{folder} has no manifest"
    raw = (folder / "manifest.json").read_bytes()
    told = json.loads(raw)
    listed = {file["path"]: file for file in (*told["files"], *(engine["file"] for engine in told["engines"]))}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - BESIDE
    assert there == set(listed), f"{folder} lacks or has too much of {there ^ set(listed)}"
    for path, file in listed.items():
        content = (folder / path).read_bytes()
        assert (len(content), sha256(content)) == (file["size"], file["sha256"]), f"{folder / path} has other bytes"
    return sha256(raw)


def root(folder: Path) -> str:
    """The digest of the bundle that an install root turns to, which is whole, as is the one before it."""
    if not (folder / "current").exists():
        return ""
    pointer = json.loads((folder / "current").read_bytes())
    for digest in (pointer["current"], pointer["previous"]):
        if digest is not None:
            assert bundle(folder / "bundles" / digest) == digest, f"{folder} turns to {digest}, which is not there"
    return str(pointer["current"])


def received(folder: Path) -> set[str]:
    """The digests of the bundles that a device was sent."""
    home = folder / "received"
    places = [path for path in home.iterdir() if path.name[0] != "."] if home.is_dir() else []
    for place in places:
        assert bundle(place) == place.name, f"{place} is another bundle"
    return {place.name for place in places}


def archive(path: Path) -> str:
    """The digest of the bundle in an archive."""
    if not path.exists():
        return ""
    with tarfile.open(path, "r:") as tar:
        blobs = {member.name: _member(tar, member) for member in tar if member.isfile()}
    (entry,) = json.loads(blobs["index.json"])["manifests"]
    return _artifact(lambda digest: blobs[f"blobs/{digest.replace(':', '/')}"], entry["digest"])


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    assert opened is not None
    return opened.read()


def registry(base: str, name: str, tag: str) -> str:
    """The digest of the bundle that a tag names."""
    try:
        asked = urllib.request.Request(f"{base}/v2/{name}/manifests/{tag}", headers={"Accept": _OCI})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            raw = answer.read()
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise AssertionError(str(error)) from error
        return ""

    def blob(digest: str) -> bytes:
        with urllib.request.urlopen(f"{base}/v2/{name}/blobs/{digest}", timeout=30) as answer:
            return bytes(answer.read())

    return _artifact(lambda digest: raw if digest.endswith(sha256(raw)) else blob(digest), f"sha256:{sha256(raw)}")


def _artifact(blob: Callable[[str], bytes], digest: str) -> str:
    """The digest of a bundle by its OCI manifest, of which every blob is there."""
    told = json.loads(blob(digest))
    named: dict[str, bytes] = {}
    for layer in (told["config"], *told["layers"]):
        raw = blob(layer["digest"])
        assert layer["digest"] == f"sha256:{sha256(raw)}", f"{layer} has other bytes"
        named[layer.get("annotations", {}).get("org.cncf.model.filepath", "")] = raw
    manifest: dict[str, Any] = json.loads(named["manifest.json"])
    files = (*manifest["files"], *(engine["file"] for engine in manifest["engines"]))
    assert all(sha256(named[file["path"]]) == file["sha256"] for file in files)
    return sha256(named["manifest.json"])


def rooms(out: Path) -> str:
    """The digest of the receipts of a run whose rooms are whole and were made from one another."""
    if not out.exists():
        return ""
    found = {path.parent.name: json.loads(path.read_bytes()) for path in out.glob("*/receipt.json")}
    for verb, receipt in found.items():
        for name, digest in receipt["files"].items():
            assert sha256((out / verb / name).read_bytes()) == digest, f"{out / verb / name} has other bytes"
        for parent, key in receipt["parents"].items():
            assert found[parent]["key"] == key, f"{verb} was made from another {parent} than there is"
    return sha256(json.dumps({verb: receipt["files"] for verb, receipt in sorted(found.items())}).encode())


def built(place: Path) -> str:
    """Whether an engine was built beside a bundle and proved; one that nobody has tried is none yet."""
    records = sorted(place.glob("*.json")) if place.is_dir() else []
    if not records:
        return ""
    (record,) = (json.loads(path.read_bytes()) for path in records)
    raw = (place / record["file"]["path"]).read_bytes()
    assert (len(raw), sha256(raw)) == (record["file"]["size"], record["file"]["sha256"]), "the engine has other bytes"
    return "proved" if record["trial"] else ""
