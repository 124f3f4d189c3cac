"""Bundles in one file (OCI image layout), and as plain files on a web server or in a folder."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.bundle import subset
from deploytool.bundle.manifest import MANIFEST_FILE, Manifest, all_files, manifest_digest, read_manifest
from deploytool.errors import BadInput, DeployError, Refused
from deploytool.transfer import addresses, download, oci, oci_archive, pull, sources
from deploytool.transfer.auth import Credentials
from deploytool.transfer.pull import PullResult
from tests.transfer import servers, small


def pull_bundle(where: str, out: Path, target: str | None = None, digest: str | None = None) -> PullResult:
    with sources.open_source(addresses.parse(where), Credentials()) as source:
        return pull.pull(source, out, subset.parse(target), digest=digest, say=lambda line: None)


def write_archive(folder: Path, path: Path) -> Path:
    oci_archive.write(folder, read_manifest(folder), path)
    return path


def test_an_archive_is_written_and_pulled(tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 1)
    path = write_archive(folder, tmp_path / "m.tar")
    pull_bundle(f"oci-archive:{path}", tmp_path / "out", digest=manifest_digest(folder))
    assert small.contents(tmp_path / "out") == small.contents(folder)
    pull_bundle(f"oci-archive:{path}", tmp_path / "orin", "orin")
    assert set(small.contents(folder)) - set(small.contents(tmp_path / "orin")) == {small.RTX40}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "m.tar", "out", "orin"}


def test_equal_bundles_give_equal_archives(tmp_path: Path) -> None:
    one, two = small.make_bundle(tmp_path / "one", 2), small.make_bundle(tmp_path / "two", 2)
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert write_archive(one, tmp_path / "1.tar").read_bytes() == write_archive(two, tmp_path / "2.tar").read_bytes()


def test_an_archive_is_an_oci_image_layout(tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 3)
    with tarfile.open(write_archive(folder, tmp_path / "m.tar")) as tar:
        raw = {member.name: read(tar, member) for member in tar}
        assert all(member.isreg() and (member.mtime, member.uid, member.mode) == (0, 0, 0o644) for member in tar)
    assert json.loads(raw["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(raw["index.json"])["manifests"]
    manifest = raw[f"blobs/{entry['digest'].replace(':', '/')}"]
    assert oci.digest_of(manifest) == entry["digest"]
    whole = json.loads(manifest)
    for blob in (whole["config"], *whole["layers"]):
        assert oci.digest_of(raw[f"blobs/{blob['digest'].replace(':', '/')}"]) == blob["digest"]


def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    assert opened is not None
    return opened.read()


def test_a_file_that_changes_while_it_is_packed_is_refused(tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 4)
    manifest = read_manifest(folder)
    raw = bytearray((folder / small.ORIN).read_bytes())
    raw[-1] ^= 1
    (folder / small.ORIN).write_bytes(raw)
    with pytest.raises(Refused, match="other bytes"):
        oci_archive.write(folder, manifest, tmp_path / "m.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.sweep)])
def test_no_flipped_bit_and_no_truncation_gives_another_bundle(tmp_path: Path, count: int) -> None:
    folder, rng = small.make_bundle(tmp_path / "in", 5), random.Random(count)
    raw, expected = write_archive(folder, tmp_path / "m.tar").read_bytes(), small.contents(folder)
    corrupt = tmp_path / "spoilt.tar"
    for number in range(count):
        changed = bytearray(raw)
        if number % 5:
            changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        else:
            del changed[rng.randrange(len(raw)) :]
        corrupt.write_bytes(changed)
        out = tmp_path / f"out{number}"
        try:
            pull_bundle(f"oci-archive:{corrupt}", out)
        except DeployError:
            assert not out.exists()
        else:  # the changed bit was padding, a mode or an owner, none of which is part of a bundle
            assert small.contents(out) == expected


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"),
        member("/etc/evil"),
        member("blobs/sha256/../../evil"),
        member("blobs/sha256/" + "0" * 64, tarfile.SYMTYPE, "/etc/passwd"),
        member("blobs/sha256/" + "0" * 64, tarfile.LNKTYPE, "index.json"),
        member("blobs/sha256/" + "0" * 64, tarfile.FIFOTYPE),
        member("blobs/sha256/" + "0" * 64, tarfile.CHRTYPE),
        member("evil", tarfile.DIRTYPE),
        member("index.json"),
        member("libplugin.so"),
    ],
    ids=lambda bad: f"{bad.name} {bad.type.decode()}",
)
def test_unexpected_members_are_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    path = write_archive(small.make_bundle(tmp_path / "in", 6), tmp_path / "m.tar")
    with tarfile.open(path, "a") as tar:
        tar.addfile(bad, io.BytesIO())
    with pytest.raises(Refused, match="unexpected member"):
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "m.tar"}


@pytest.mark.parametrize("raw", [b"", b"no tar at all", b"\0" * 10240])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "m.tar").write_bytes(raw)
    with pytest.raises(Refused):
        pull_bundle(f"oci-archive:{tmp_path / 'm.tar'}", tmp_path / "out")
    with pytest.raises(BadInput, match="there is no file"):
        pull_bundle(f"oci-archive:{tmp_path / 'n.tar'}", tmp_path / "out")


def test_plain_files_from_a_web_server_and_a_folder(tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 7)
    (folder / "model.sig").write_text("signed")
    with servers.web(tmp_path) as url:
        pull_bundle(f"{url}in", tmp_path / "web")
        pull_bundle(f"{url}in/", tmp_path / "orin", "orin")
        with pytest.raises(BadInput, match="404"):
            pull_bundle(f"{url}out/", tmp_path / "none")
    pull_bundle(str(folder), tmp_path / "stick")
    assert small.contents(tmp_path / "web") == small.contents(tmp_path / "stick") == small.contents(folder)
    assert not (tmp_path / "orin" / small.RTX40).exists()
    with pytest.raises(BadInput, match=r"holds no manifest\.json"):
        pull_bundle(str(tmp_path), tmp_path / "none")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to("kept")


@pytest.mark.parametrize("change", [flip, shorten, Path.unlink, link])
def test_changed_files_are_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = small.make_bundle(tmp_path / "in", 8)
    change(folder / small.RTX40)
    with pytest.raises(Refused):
        pull_bundle(str(folder), tmp_path / "stick")
    if change is not link:  # the server follows the link, and the bytes are right
        with servers.web(tmp_path) as url, pytest.raises(Refused):
            pull_bundle(f"{url}in/", tmp_path / "web")
    assert not (tmp_path / "stick").exists()
    assert not (tmp_path / "web").exists()


def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path) -> None:
    """The part from an earlier try is hashed with the rest; a wrong part costs a second download."""
    folder = small.make_bundle(tmp_path / "in", 9, 5000)
    file = next(file for file in all_files(read_manifest(folder)) if file.path == small.ORIN)
    parts = tmp_path / ".out.fetching" / manifest_digest(folder) / "parts"
    parts.mkdir(parents=True)
    for part in ((folder / small.ORIN).read_bytes()[:1000], b"x" * 1000):
        (parts / file.sha256).write_bytes(part)
        with servers.web(tmp_path) as url, sources.open_source(addresses.parse(f"{url}in/"), Credentials()) as source:
            received = download.fetch(source, file, tmp_path / "one.plan", parts)
        assert received == (file.size - 1000 if part[0] != ord("x") else file.size)
        assert (tmp_path / "one.plan").read_bytes() == (folder / small.ORIN).read_bytes()


def test_another_digest_is_refused_before_any_download(tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 10)
    with pytest.raises(Refused, match="another bundle"):
        pull_bundle(str(folder), tmp_path / "out", digest="0" * 64)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_is_too_long_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """The archive is sparse: it needs no disk space, but reading the header would need the memory."""
    one = tarfile.TarInfo("x")
    one.type, one.size = kind, 64 << 20
    path = write_archive(small.make_bundle(tmp_path / "in", 1), tmp_path / "m.tar")
    whole = path.read_bytes()
    with path.open("wb") as opened:
        opened.write(one.tobuf(tarfile.GNU_FORMAT))
        opened.seek(one.size, os.SEEK_CUR)
        opened.write(whole)
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match=r"header is longer|manifest of more than"):
            pull_bundle(f"oci-archive:{path}", tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def rewrite_members(path: Path, names: Callable[[str], bool], change: Callable[[bytes], bytes]) -> None:
    """Rewrites an archive with changed content of the selected members."""
    with tarfile.open(path) as tar:
        raw = {entry.name: read(tar, entry) for entry in tar}
    assert any(map(names, raw))
    with tarfile.open(path, "w") as tar:
        for name, content in raw.items():
            made = change(content) if names(name) else content
            one = tarfile.TarInfo(name)
            one.size = len(made)
            tar.addfile(one, io.BytesIO(made))


def flip_last_bit(raw: bytes) -> bytes:
    return bytes([*raw[:-1], raw[-1] ^ 1])


def blob_name(path: Path, media: str) -> str:
    """The name of the OCI manifest in an archive, or of the blob of a file of the bundle."""
    with tarfile.open(path) as tar:
        raw = {entry.name: read(tar, entry) for entry in tar}
    (entry,) = json.loads(raw["index.json"])["manifests"]
    manifest = f"blobs/{entry['digest'].replace(':', '/')}"
    if entry["mediaType"] == media:
        return manifest
    return next(
        f"blobs/{layer['digest'].replace(':', '/')}"
        for layer in json.loads(raw[manifest])["layers"]
        if layer["annotations"][oci.FILE_PATH] == media
    )


@pytest.mark.parametrize("which", [oci.MANIFEST_TYPE, MANIFEST_FILE])
def test_the_digests_of_both_manifests_are_verified(tmp_path: Path, which: str) -> None:
    path = write_archive(small.make_bundle(tmp_path / "in", 11), tmp_path / "m.tar")
    name = blob_name(path, which)
    rewrite_members(path, name.__eq__, flip_last_bit)
    with pytest.raises(Refused, match="has other bytes than its name"):
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")


def test_a_file_of_another_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_archive(small.make_bundle(tmp_path / "in", 12), tmp_path / "m.tar")
    name = blob_name(path, small.ORIN)
    rewrite_members(path, name.__eq__, lambda raw: raw + b"x")
    with pytest.raises(Refused, match="has another size than the manifest"):
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")


def test_an_index_of_two_models_or_none_is_refused(tmp_path: Path) -> None:
    def repeat(count: int) -> Callable[[bytes], bytes]:
        return lambda raw: small.text({"manifests": json.loads(raw)["manifests"] * count})

    for count in (0, 2):
        path = write_archive(small.make_bundle(tmp_path / f"in{count}", 13), tmp_path / f"{count}.tar")
        rewrite_members(path, "index.json".__eq__, repeat(count))
        with pytest.raises(Refused, match="exactly one bundle"):
            pull_bundle(f"oci-archive:{path}", tmp_path / "out")


def test_an_archive_with_other_layers_than_the_bundle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = oci.build_artifact

    def without_last_layer(folder: Path, manifest: Manifest) -> oci.Artifact:
        artifact = make(folder, manifest)
        oci_manifest = json.loads(artifact.manifest)
        oci_manifest["layers"].pop()
        return oci.Artifact(small.text(oci_manifest), artifact.config, artifact.layers)

    monkeypatch.setattr(oci, "build_artifact", without_last_layer)
    path = write_archive(small.make_bundle(tmp_path / "in", 14), tmp_path / "m.tar")
    with pytest.raises(Refused, match="differ in"):
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(small.make_bundle(tmp_path / "in", 15), tmp_path / "m.tar")
    monkeypatch.setattr(oci_archive, "_MOST", 5)
    with pytest.raises(Refused, match="unexpected member"):
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")


def test_a_manifest_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(small.make_bundle(tmp_path / "in", 16), tmp_path / "m.tar")
    monkeypatch.setattr(oci_archive, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(Refused, match=r"index\.json is longer than"):
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    path = write_archive(small.make_bundle(tmp_path / "in", 17), tmp_path / "m.tar")
    one = member("blobs/sha256/" + "0" * 64)
    one.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(one, io.BytesIO())
    with pytest.raises(Refused, match="is not a plain file"):
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")


def test_a_member_of_negative_size_is_refused(tmp_path: Path) -> None:
    path = write_archive(small.make_bundle(tmp_path / "in", 18), tmp_path / "m.tar")
    one = member("blobs/sha256/" + "0" * 64)
    one.size = -512
    path.write_bytes(one.tobuf(tarfile.GNU_FORMAT) + path.read_bytes())
    with pytest.raises(Refused, match=r"is not a plain file|is not a tar"):  # newer versions of Python detect it
        pull_bundle(f"oci-archive:{path}", tmp_path / "out")
