"""A pull that requires a signature: a bundle that the key has not signed is never visible, and leaves no files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.bundle import sign, subset
from deploytool.bundle.manifest import SIGNATURE_FILE, Manifest, check_files, read_manifest
from deploytool.device import verify
from deploytool.device.verify import VerifyOptions
from deploytool.errors import BadInput, Refused
from deploytool.transfer import addresses, pull, sources
from deploytool.transfer.auth import Credentials
from deploytool.transfer.pull import PullResult
from tests.device.keys import Keys, keys
from tests.transfer import small
from tests.transfer.servers import Registry
from tests.transfer.trips import address, ignore, push_bundle


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "theirs")


@pytest.fixture
def signed(tmp_path: Path, ours: Keys) -> Path:
    folder = small.make_bundle(tmp_path / "in", 9001)
    sign.sign(folder, ours[0])
    return folder


def pull_bundle(where: str, out: Path, key: Path, target: str | None = None) -> PullResult:
    with sources.open_source(addresses.parse(where), Credentials()) as source:
        return pull.pull(source, out, subset.parse(target), signed=verify.signature_checker(key), say=ignore)


@pytest.mark.parametrize("target", [None, "orin", "thor"])
def test_a_signed_bundle_is_pulled_whole_or_for_a_target(
    served: Registry, signed: Path, tmp_path: Path, ours: Keys, target: str | None
) -> None:
    name = f"signed/{target or 'all'}".lower()
    push_bundle(signed, served.port, name)
    result = pull_bundle(address(served, name), tmp_path / "out", ours[1], target)
    assert result.left_out == {None: 0, "orin": 1, "thor": 2}[target]
    steps = {
        step.name: step.status for step in verify.check_integrity(tmp_path / "out", VerifyOptions(key=ours[1])).steps
    }
    assert steps["signature"] == f"held: {8 - result.left_out} files, by {ours[1]}"


def remove_signature(folder: Path, theirs: Keys) -> None:
    (folder / SIGNATURE_FILE).unlink()


def sign_with_another_key(folder: Path, theirs: Keys) -> None:
    sign.sign(folder, theirs[0])


def replace_content(folder: Path, theirs: Keys) -> None:
    """Replaces the content by that of another bundle, and keeps the signature."""
    other = small.make_bundle(folder.with_name("other"), 2)
    shutil.copytree(other, folder, dirs_exist_ok=True)
    check_files(folder, read_manifest(folder))


def corrupt_signature(folder: Path, theirs: Keys) -> None:
    raw = bytearray((folder / SIGNATURE_FILE).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / SIGNATURE_FILE).write_bytes(raw)


@pytest.mark.parametrize("tamper", [remove_signature, sign_with_another_key, replace_content, corrupt_signature])
@pytest.mark.parametrize("way", ["registry", "folder"])
def test_a_bundle_that_the_key_has_not_signed_leaves_nothing(
    served: Registry,
    signed: Path,
    tmp_path: Path,
    ours: Keys,
    theirs: Keys,
    way: str,
    tamper: Callable[[Path, Keys], None],
) -> None:
    tamper(signed, theirs)
    if way == "registry":
        push_bundle(signed, served.port, f"unsigned/{tamper.__name__}")
    where = address(served, f"unsigned/{tamper.__name__}") if way == "registry" else str(signed)
    (tmp_path / "home").mkdir()
    with pytest.raises(Refused, match=r"the bundle is not signed|the signature of the bundle is"):
        pull_bundle(where, tmp_path / "home" / "out", ours[1], "orin")
    assert not list((tmp_path / "home").iterdir())


def test_the_manifest_is_not_parsed_before_the_signature_is_verified(
    signed: Path, tmp_path: Path, theirs: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> Manifest:
        raise AssertionError("the manifest was parsed")

    monkeypatch.setattr(pull, "read_manifest", fail)
    with pytest.raises(Refused, match="is not by the key"):
        pull_bundle(str(signed), tmp_path / "out", theirs[1])
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_signature_with_other_digests_than_the_manifest_leaves_nothing(
    signed: Path, tmp_path: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature is valid, but its digests differ from those of the manifest."""
    shutil.copytree(signed, tmp_path / "existing", ignore=shutil.ignore_patterns(SIGNATURE_FILE))
    (signed / "recipe.json").write_bytes(bytes((signed / "recipe.json").stat().st_size))
    monkeypatch.setattr(sign, "check_files", lambda folder, manifest: None)
    sign.sign(signed, ours[0])
    monkeypatch.undo()
    (tmp_path / "home").mkdir()
    for out in (tmp_path / "home" / "out", tmp_path / "existing"):
        with pytest.raises(Refused, match=r"recipe\.json is not signed with the digest that the manifest states"):
            pull_bundle(str(signed), out, ours[1])
    assert not list((tmp_path / "home").iterdir())
    assert not (tmp_path / "existing" / SIGNATURE_FILE).exists()


def test_a_signature_is_added_to_an_existing_copy(signed: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    raw = (signed / SIGNATURE_FILE).read_bytes()
    (signed / SIGNATURE_FILE).unlink()
    with sources.open_source(addresses.Folder(signed), Credentials()) as source:
        pull.pull(source, tmp_path / "out", None, say=ignore)
    (signed / SIGNATURE_FILE).write_bytes(raw)
    with pytest.raises(Refused, match="is not by the key"):
        pull_bundle(str(signed), tmp_path / "out", theirs[1])
    assert not (tmp_path / "out" / SIGNATURE_FILE).exists()
    assert pull_bundle(str(signed), tmp_path / "out", ours[1]).fetched == 0
    verify.check_integrity(tmp_path / "out", VerifyOptions(key=ours[1]))
    (tmp_path / "out" / "recipe.json").write_bytes(b"x")
    with pytest.raises(Refused, match="has another size"):
        pull_bundle(str(signed), tmp_path / "out", ours[1])


def test_a_corrupt_file_of_a_signed_bundle_is_never_visible(
    served: Registry, signed: Path, tmp_path: Path, ours: Keys
) -> None:
    push_bundle(signed, served.port, "signed/corrupt")
    blob = served.blob(hashlib.sha256((signed / small.ORIN).read_bytes()).hexdigest())
    original = blob.read_bytes()
    blob.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(Refused):
        pull_bundle(address(served, "signed/corrupt"), tmp_path / "out", ours[1])
    blob.write_bytes(original)  # other tests may use the same blob
    assert not (tmp_path / "out").exists()


def test_a_missing_key_is_bad_input_and_nothing_is_written(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        pull_bundle(str(signed), tmp_path / "out", tmp_path / "none.pem")
    assert not (tmp_path / "out").exists()


class Interrupted(BaseException):
    """Represents a kill."""


def test_a_pull_that_is_killed_while_it_adds_a_signature_corrupts_nothing(
    signed: Path, tmp_path: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(signed, out, ignore=shutil.ignore_patterns(SIGNATURE_FILE))

    def interrupt(*_: object, **__: object) -> None:
        raise Interrupted

    for method in ("replace", "unlink"):  # neither renamed into place nor removed
        monkeypatch.setattr(Path, method, interrupt)
    with pytest.raises(Interrupted):
        pull_bundle(str(signed), out, ours[1])
    monkeypatch.undo()
    verify.check_integrity(out)
    pull_bundle(str(signed), out, ours[1])
    verify.check_integrity(out, VerifyOptions(key=ours[1]))
