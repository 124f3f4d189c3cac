"""Only what the key has signed, and as it was signed; model-signing itself agrees in both directions."""

from __future__ import annotations

import base64
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from model_signing import hashing, verifying
from model_signing import signing as oms

from deploytool import bundle, signing
from deploytool.device import install, signature, verify
from deploytool.device.serve import serve
from deploytool.device.verify import Asked
from deploytool.errors import BadInput, MissingBackend, Refused
from tests.device import small

Keys = tuple[Path, Path]


def keys(folder: Path, name: str, private: Any = None) -> Keys:
    """A private and a public key, each in its file."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    one, other = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    one.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    other.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return one, other


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys(tmp_path_factory.mktemp("keys"), "theirs")


@pytest.fixture(scope="module")
def signed(packed: Path, tmp_path_factory: pytest.TempPathFactory, ours: Keys) -> Path:
    folder = small.small(packed, tmp_path_factory.mktemp("signed") / "bundle")
    assert signing.sign(folder, ours[0]) == len(bundle.every(bundle.read(folder))) + 1
    return folder


@pytest.fixture(scope="module")
def other(packed: Path, tmp_path_factory: pytest.TempPathFactory, ours: Keys) -> Path:
    """Another bundle that the same key signed."""
    folder = small.small(packed, tmp_path_factory.mktemp("other") / "bundle", seed=1)
    signing.sign(folder, ours[0])
    return folder


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


def refused(folder: Path, key: Path) -> bool:
    try:
        verify.papers(folder, Asked(key=key))
    except Refused:
        return True
    return False


def by_the_book(folder: Path, key: Path) -> None:
    verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, folder / bundle.SIGNATURE)


def test_fifty_clean_bundles_are_not_refused(packed: Path, tmp_path: Path, ours: Keys) -> None:
    for seed in range(50):
        folder = small.small(packed, tmp_path / str(seed), seed=seed)
        signing.sign(folder, ours[0])
        assert not refused(folder, ours[1])


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_model_signing_verifies_what_we_sign(copy: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = keys(tmp_path, "key", ec.generate_private_key(curve))
    signing.sign(copy, private)
    by_the_book(copy, public)
    verify.papers(copy, Asked(key=public))
    (copy / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match="mismatch"):
        by_the_book(copy, public)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_we_verify_what_model_signing_signs(copy: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = keys(tmp_path, "key", ec.generate_private_key(curve))
    (copy / bundle.SIGNATURE).unlink()
    oms.Config().use_elliptic_key_signer(private_key=private).sign(copy, copy / bundle.SIGNATURE)
    shown = verify.papers(copy, Asked(key=public)).steps[0]
    assert (shown.name, shown.status) == ("signature", f"held: {len(small.paths(copy))} files, by {public}")


@pytest.mark.parametrize(
    "how",
    [
        hashing.Config().use_file_serialization(hashing_algorithm="blake2"),
        hashing.Config().use_shard_serialization(shard_size=100),
        hashing.Config().use_file_serialization(allow_symlinks=True).set_allow_symlinks(True),
    ],
    ids=["blake2", "shards", "links"],
)
def test_what_is_signed_in_another_way_is_refused_by_name(copy: Path, ours: Keys, how: hashing.Config) -> None:
    (copy / bundle.SIGNATURE).unlink()
    oms.Config().use_elliptic_key_signer(private_key=ours[0]).set_hashing_config(how).sign(
        copy, copy / bundle.SIGNATURE
    )
    with pytest.raises(Refused, match="file by file with SHA-256 and without links"):
        verify.papers(copy, Asked(key=ours[1]))


def test_a_path_that_the_signer_ignored_is_not_ignored_here(copy: Path, ours: Keys) -> None:
    (copy / bundle.SIGNATURE).unlink()
    (copy / ".gitignore").write_text("*")  # model-signing leaves it out by itself
    how = hashing.Config().set_ignored_paths(paths=[bundle.SIGNATURE])
    oms.Config().use_elliptic_key_signer(private_key=ours[0]).set_hashing_config(how).sign(
        copy, copy / bundle.SIGNATURE
    )
    by_the_book(copy, ours[1])
    with pytest.raises(Refused, match=r"\.gitignore is not signed"):
        verify.papers(copy, Asked(key=ours[1]))


def flipped(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def in_the_signature_file(folder: Path, rng: random.Random) -> None:
    flipped(folder / bundle.SIGNATURE, rng)


def inside(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits the envelope: what is encoded in it stays well encoded."""
    place = folder / bundle.SIGNATURE
    data = json.loads(place.read_text())
    edit(data["dsseEnvelope"])
    place.write_text(json.dumps(data))


def one_bit(text: str, rng: random.Random) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return base64.b64encode(raw).decode()


def in_the_signature(folder: Path, rng: random.Random) -> None:
    def edit(envelope: dict[str, Any]) -> None:
        envelope["signatures"][0]["sig"] = one_bit(envelope["signatures"][0]["sig"], rng)

    inside(folder, edit)


def in_the_payload(folder: Path, rng: random.Random) -> None:
    def edit(envelope: dict[str, Any]) -> None:
        envelope["payload"] = one_bit(envelope["payload"], rng)

    inside(folder, edit)


def in_a_file(folder: Path, rng: random.Random) -> None:
    flipped(rng.choice([path for path in small.paths(folder) if path.name != bundle.SIGNATURE]), rng)


def no_signature(folder: Path, rng: random.Random) -> None:
    (folder / bundle.SIGNATURE).unlink()


def linked_signature(folder: Path, rng: random.Random) -> None:
    kept = folder.with_name(f"{folder.name}.linked")
    (folder / bundle.SIGNATURE).rename(kept)
    (folder / bundle.SIGNATURE).symlink_to(kept)


OURS = (in_the_signature_file, in_the_signature, in_the_payload, in_a_file, no_signature, linked_signature)
OF_FILES = (small.extra, small.missing, small.rename, small.swap, small.manifest_bytes, small.old)


def test_three_hundred_tampered_bundles_are_refused(
    signed: Path, other: Path, tmp_path: Path, ours: Keys, theirs: Keys
) -> None:
    """Bits of the signature, the payload and the files, files added, removed and renamed, and signatures of others."""
    rng, kept, folder = random.Random(7), small.contents(signed), tmp_path / "bundle"
    swapped = (other / bundle.SIGNATURE).read_bytes()
    passed: Counter[str] = Counter()
    for number in range(280):
        tamper = (*OURS, *OF_FILES)[number % 12]
        tamper(small.restored(kept, folder), rng)
        passed[tamper.__name__] += not refused(folder, ours[1])
    for number in range(20):
        small.restored(kept, folder)
        if number % 2:
            (folder / bundle.SIGNATURE).write_bytes(swapped)
        elif number % 4:
            signing.sign(folder, theirs[0])
        passed["other signature"] += not refused(folder, ours[1] if number % 4 else theirs[1])
    assert +passed == Counter()
    assert not refused(small.restored(kept, folder), ours[1])


def test_the_signature_alone_holds_every_file(copy: Path, ours: Keys) -> None:
    """The manifest is not asked: it names the same digests, but a bundle need not get that far."""
    seal = bundle.seal(copy)
    for path in [path for path in small.paths(copy) if path.name != bundle.SIGNATURE]:
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(Refused, match="has other bytes"):
            signature.check(copy, seal, ours[1])
        path.write_bytes(kept)
    signature.check(copy, seal, ours[1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bundle.v0.3+json", "bundle.v0.2+json"),
        ('"keyid":""', '"keyid":"x"'),
        ('"keyid":""', '"keyid":"","more":1'),
        ('"keyid":""', '"keyid":"","keyid":""'),
        ('"tlogEntries":[]', '"tlogEntries":[1]'),
        ('"tlogEntries":[]', '"more":[]'),
        (',"tlogEntries":[]', ""),
        ("vnd.in-toto+json", "vnd.in-toto+jsom"),
        ('"hint":"', '"hint":"0'),
        ('"sig":"', '"sig":" '),
        ("}]}}", '}]}} "'),
        ('"signatures":[', '"signatures":[{},'),
    ],
)
def test_a_signature_has_one_text(copy: Path, ours: Keys, old: str, new: str) -> None:
    place = copy / bundle.SIGNATURE
    assert old in place.read_text()
    place.write_text(place.read_text().replace(old, new, 1))
    assert refused(copy, ours[1])


def test_no_bit_of_base64_is_to_spare(copy: Path, ours: Keys) -> None:
    """A last letter may hold bits that decode to nothing; another one in its place is another text."""
    place, letters = copy / bundle.SIGNATURE, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = place.read_text()
    sig = json.loads(text)["dsseEnvelope"]["signatures"][0]["sig"]
    while not sig.endswith("="):  # signatures differ in length
        signing.sign(copy, ours[0])
        text = place.read_text()
        sig = json.loads(text)["dsseEnvelope"]["signatures"][0]["sig"]
    bare = sig.rstrip("=")
    other = bare[:-1] + letters[letters.index(bare[-1]) ^ 1] + "=" * (len(sig) - len(bare))
    assert base64.b64decode(other) == base64.b64decode(sig)
    place.write_text(text.replace(sig, other))
    assert refused(copy, ours[1])


def test_a_whole_forgery_is_refused(copy: Path, ours: Keys, theirs: Keys) -> None:
    """Other bytes, a manifest that names them, and a signature by a key one does not trust."""
    manifest = bundle.read(copy)
    (copy / manifest.graphs[0].path).write_bytes(b"another graph")
    files = tuple(bundle.describe(copy, file.path, file.role) for file in manifest.files)
    bundle.write(copy, type(manifest)(**{**vars(manifest), "files": files}))
    verify.papers(copy)
    with pytest.raises(Refused, match="is for another bundle"):
        verify.papers(copy, Asked(key=ours[1]))
    signing.sign(copy, theirs[0])
    with pytest.raises(Refused, match="is not by the key"):
        verify.papers(copy, Asked(key=ours[1]))


def test_the_manifest_is_not_parsed_before_the_signature_holds(
    copy: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(folder: Path) -> bundle.Manifest:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(bundle, "read", never)
    (copy / bundle.SIGNATURE).unlink()
    with pytest.raises(Refused, match="is not signed"):
        verify.papers(copy, Asked(key=ours[1]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("in-toto.io/Statement/v1", "in-toto.io/Statement/v2"),
        ("model_signing/signature/v1.0", "model_signing/Digests/v0.1"),
        ('"algorithm": "sha256"', '"algorithm": "sha512"'),
        ('"name": "manifest.json"', '"name": "recipe.json"'),
        ('"method": "files"', '"method": "shards"'),
        ('{"sha256": "', '{"sha256": "0'),
        ("{", "[" * 100_000),
    ],
)
def test_a_statement_of_another_kind_is_refused_though_its_signature_holds(
    copy: Path, tmp_path: Path, old: str, new: str
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    one, public = keys(tmp_path, "key", private)
    signing.sign(copy, one)

    def edit(envelope: dict[str, Any]) -> None:
        text = json.dumps(json.loads(base64.b64decode(envelope["payload"])))
        assert old in text
        payload, kind = text.replace(old, new).encode(), envelope["payloadType"]
        before = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode()
        made = private.sign(before + payload, ec.ECDSA(signature._CURVES["secp256r1"]))
        envelope["payload"] = base64.b64encode(payload).decode()
        envelope["signatures"][0]["sig"] = base64.b64encode(made).decode()

    inside(copy, edit)
    with pytest.raises(Refused, match="no signature of the kind"):
        verify.papers(copy, Asked(key=public))


def test_keys_that_are_none_are_bad_input(copy: Path, tmp_path: Path, ours: Keys) -> None:
    foreign = keys(tmp_path, "ed25519", ed25519.Ed25519PrivateKey.generate())
    for key, problem in (
        (tmp_path / "none.pem", "cannot be read"),
        (copy / "recipe.json", "is no public key"),
        (ours[0], "is no public key"),
        (foreign[1], "is no key on secp256r1"),
    ):
        with pytest.raises(BadInput, match=problem):
            verify.papers(copy, Asked(key=key))
    for key, problem in (
        (tmp_path / "none.pem", "cannot be read"),
        (ours[1], "is no private key in PEM"),
        (foreign[0], "is no private key on secp256r1"),
    ):
        with pytest.raises(BadInput, match=problem):
            signing.sign(copy, key)


def test_what_is_broken_is_not_signed(copy: Path, ours: Keys) -> None:
    (copy / "recipe.json").write_text("{}")
    with pytest.raises(Refused, match="than the manifest says"):
        signing.sign(copy, ours[0])


def test_without_cryptography_one_line_says_so(copy: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "deploytool.device.signature")
    monkeypatch.delattr("deploytool.device.signature")
    verify.papers(copy)
    with pytest.raises(MissingBackend, match="a signature is required, and cryptography is not installed"):
        verify.papers(copy, Asked(key=ours[1]))


def test_an_installed_bundle_keeps_its_signature(signed: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    unsigned = Path(shutil.copytree(signed, tmp_path / "unsigned"))
    (unsigned / bundle.SIGNATURE).unlink()
    root = tmp_path / "root"
    with pytest.raises(Refused, match="is not signed"):
        install.install(unsigned, root, lambda _: None, key=ours[1])
    first = install.install(unsigned, root, lambda _: None)  # nobody asked
    second = install.install(signed, root, lambda _: None, key=ours[1])
    assert (second.current, second.previous) == (first.current, None)
    verify.papers(install.home(root, second.current), Asked(key=ours[1]))
    with pytest.raises(Refused, match="is not by the key"), serve(root, require_signature=theirs[1]):
        pass
