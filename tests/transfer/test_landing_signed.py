"""A pull that requires a signature: what the key has not signed is never seen, and nothing of it is left."""

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
from tests.transfer.trips import address, hush, pushed


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "theirs")


@pytest.fixture
def signed(tmp_path: Path, ours: Keys) -> Path:
    folder = small.made(tmp_path / "in", 9001)
    sign.sign(folder, ours[0])
    return folder


def pulled(where: str, out: Path, key: Path, target: str | None = None) -> PullResult:
    with sources.open_source(addresses.parse(where), Credentials()) as source:
        return pull.pull(source, out, subset.parse(target), signed=verify.signature_checker(key), say=hush)


@pytest.mark.parametrize("target", [None, "orin", "thor"])
def test_what_the_key_has_signed_comes_whole_and_in_part(
    served: Registry, signed: Path, tmp_path: Path, ours: Keys, target: str | None
) -> None:
    name = f"signed/{target or 'all'}".lower()
    pushed(signed, served.port, name)
    landed = pulled(address(served, name), tmp_path / "out", ours[1], target)
    assert landed.left_out == {None: 0, "orin": 1, "thor": 2}[target]
    steps = {
        step.name: step.status for step in verify.check_integrity(tmp_path / "out", VerifyOptions(key=ours[1])).steps
    }
    assert steps["signature"] == f"held: {8 - landed.left_out} files, by {ours[1]}"


def no_signature(folder: Path, theirs: Keys) -> None:
    (folder / SIGNATURE_FILE).unlink()


def by_others(folder: Path, theirs: Keys) -> None:
    sign.sign(folder, theirs[0])


def of_another(folder: Path, theirs: Keys) -> None:
    """A bundle that was never signed, with the signature of one that was."""
    other = small.made(folder.with_name("other"), 2)
    shutil.copytree(other, folder, dirs_exist_ok=True)
    check_files(folder, read_manifest(folder))


def spoilt(folder: Path, theirs: Keys) -> None:
    raw = bytearray((folder / SIGNATURE_FILE).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / SIGNATURE_FILE).write_bytes(raw)


@pytest.mark.parametrize("tamper", [no_signature, by_others, of_another, spoilt])
@pytest.mark.parametrize("way", ["registry", "folder"])
def test_what_it_has_not_signed_leaves_nothing(
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
        pushed(signed, served.port, f"unsigned/{tamper.__name__}")
    where = address(served, f"unsigned/{tamper.__name__}") if way == "registry" else str(signed)
    (tmp_path / "home").mkdir()
    with pytest.raises(Refused, match=r"the bundle is not signed|the signature of the bundle is"):
        pulled(where, tmp_path / "home" / "out", ours[1], "orin")
    assert not list((tmp_path / "home").iterdir())


def test_the_manifest_is_not_parsed_before_the_signature_holds(
    signed: Path, tmp_path: Path, theirs: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(folder: Path) -> Manifest:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(pull, "read_manifest", never)
    with pytest.raises(Refused, match="is not by the key"):
        pulled(str(signed), tmp_path / "out", theirs[1])
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_signature_that_names_other_bytes_than_its_manifest_leaves_nothing(
    signed: Path, tmp_path: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds the key has signed nonsense: the two do not agree, and neither is believed."""
    shutil.copytree(signed, tmp_path / "there", ignore=shutil.ignore_patterns(SIGNATURE_FILE))
    (signed / "recipe.json").write_bytes(b"x")
    monkeypatch.setattr(sign, "check_files", lambda folder, manifest: None)
    sign.sign(signed, ours[0])
    monkeypatch.undo()
    (tmp_path / "home").mkdir()
    for out in (tmp_path / "home" / "out", tmp_path / "there"):
        with pytest.raises(Refused, match=r"recipe\.json is not signed with the digest that the manifest states"):
            pulled(str(signed), out, ours[1])
    assert not list((tmp_path / "home").iterdir())
    assert not (tmp_path / "there" / SIGNATURE_FILE).exists()


def test_what_came_before_without_its_signature_gets_it(signed: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    raw = (signed / SIGNATURE_FILE).read_bytes()
    (signed / SIGNATURE_FILE).unlink()
    with sources.open_source(addresses.Folder(signed), Credentials()) as source:
        pull.pull(source, tmp_path / "out", None, say=hush)
    (signed / SIGNATURE_FILE).write_bytes(raw)
    with pytest.raises(Refused, match="is not by the key"):
        pulled(str(signed), tmp_path / "out", theirs[1])
    assert not (tmp_path / "out" / SIGNATURE_FILE).exists()
    assert pulled(str(signed), tmp_path / "out", ours[1]).fetched == 0
    verify.check_integrity(tmp_path / "out", VerifyOptions(key=ours[1]))
    (tmp_path / "out" / "recipe.json").write_bytes(b"x")
    with pytest.raises(Refused, match="has another size"):
        pulled(str(signed), tmp_path / "out", ours[1])


def test_a_spoilt_file_of_a_signed_bundle_is_never_seen(
    served: Registry, signed: Path, tmp_path: Path, ours: Keys
) -> None:
    pushed(signed, served.port, "signed/spoilt")
    blob = served.blob(hashlib.sha256((signed / small.ORIN).read_bytes()).hexdigest())
    kept = blob.read_bytes()
    blob.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(Refused):
        pulled(address(served, "signed/spoilt"), tmp_path / "out", ours[1])
    blob.write_bytes(kept)  # other tests may name the same bytes
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_none_is_bad_input_before_anything_is_written(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        pulled(str(signed), tmp_path / "out", tmp_path / "none.pem")
    assert not (tmp_path / "out").exists()


class Cut(BaseException):
    """Stands for a kill."""


def test_a_pull_that_is_killed_while_it_adds_a_signature_spoils_nothing(
    signed: Path, tmp_path: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(signed, out, ignore=shutil.ignore_patterns(SIGNATURE_FILE))

    def killed(*_: object, **__: object) -> None:
        raise Cut

    for method in ("replace", "unlink"):  # neither put in its place nor tidied up
        monkeypatch.setattr(Path, method, killed)
    with pytest.raises(Cut):
        pulled(str(signed), out, ours[1])
    monkeypatch.undo()
    verify.check_integrity(out)
    pulled(str(signed), out, ours[1])
    verify.check_integrity(out, VerifyOptions(key=ours[1]))
