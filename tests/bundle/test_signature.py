"""Signatures: every file is signed by the key, and only the canonical form is accepted."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from deploytool.bundle import sign, signature
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    Manifest,
    describe_file,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from deploytool.device import install, verify
from deploytool.device.serve import serve
from deploytool.device.verify import Integrity, VerifyOptions
from deploytool.errors import BadInput, MissingBackend, Refused
from deploytool.host import files
from tests.device import small
from tests.device.keys import Keys, edit_envelope, is_refused, keys


def test_the_signature_alone_detects_a_change_of_every_file(copy: Path, ours: Keys) -> None:
    """The manifest is not read: a changed file is detected from the signature alone."""
    digest = manifest_digest(copy)
    for path in [path for path in small.paths(copy) if path.name != SIGNATURE_FILE]:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(Refused, match="has other bytes"):
            signature.check(copy, digest, ours[1])
        path.write_bytes(content)
    signature.check(copy, digest, ours[1])


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
        ("}]}}", "},{}]}}"),
        ('"signatures":[', '"signatures":[{},'),
    ],
)
def test_a_signature_in_any_other_form_is_refused(copy: Path, ours: Keys, old: str, new: str) -> None:
    path = copy / SIGNATURE_FILE
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert is_refused(copy, ours[1])


def test_a_signature_file_that_is_too_long_is_refused(copy: Path, ours: Keys) -> None:
    with (copy / SIGNATURE_FILE).open("a") as opened:
        opened.write(" " * MAX_MANIFEST_BYTES)  # which JSON allows
    assert is_refused(copy, ours[1])


def test_base64_that_is_not_canonical_is_refused(copy: Path, ours: Keys) -> None:
    """The last letter may have unused bits; a letter that differs in them only decodes to the same bytes."""
    path, letters = copy / SIGNATURE_FILE, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = path.read_text()
    sig = json.loads(text)["dsseEnvelope"]["signatures"][0]["sig"]
    while not sig.endswith("="):  # signatures differ in length
        sign.sign(copy, ours[0])
        text = path.read_text()
        sig = json.loads(text)["dsseEnvelope"]["signatures"][0]["sig"]
    bare = sig.rstrip("=")
    changed = bare[:-1] + letters[letters.index(bare[-1]) ^ 1] + "=" * (len(sig) - len(bare))
    assert base64.b64decode(changed) == base64.b64decode(sig)
    path.write_text(text.replace(sig, changed))
    assert is_refused(copy, ours[1])


def test_a_consistent_forgery_is_refused(copy: Path, ours: Keys, theirs: Keys) -> None:
    """A changed file, a manifest with its digest, and a signature by a key that is not trusted."""
    manifest = read_manifest(copy)
    (copy / manifest.graphs[0].path).write_bytes(b"another graph")
    files = tuple(describe_file(copy, file.path, file.role) for file in manifest.files)
    write_manifest(copy, type(manifest)(**{**vars(manifest), "files": files}))
    verify.check_integrity(copy)
    with pytest.raises(Refused, match="is for another bundle"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))
    sign.sign(copy, theirs[0])
    with pytest.raises(Refused, match="is not by the key"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))


@pytest.mark.parametrize("name", ["recipe.json", MANIFEST_FILE, "unlisted.bin"])
def test_a_huge_sparse_file_is_not_read(name: str, copy: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    hashed = files.verified_blocks

    def verified_blocks(blocks: BinaryIO, path: object, size: int, sha256: str) -> Iterator[bytes]:
        read.append(size)
        assert size < 1 << 30, f"{path} would be read whole"
        return hashed(blocks, path, size, sha256)

    monkeypatch.setattr(files, "verified_blocks", verified_blocks)
    assert not is_refused(copy, ours[1])
    assert read
    with (copy / name).open("ab") as file:
        file.truncate(1 << 40)
    assert is_refused(copy, ours[1])


def test_the_signature_is_checked_before_the_manifest_is_parsed(
    copy: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(raw: bytes, folder: Path) -> Manifest:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(verify, "parse_manifest", fail)
    (copy / SIGNATURE_FILE).unlink()
    with pytest.raises(Refused, match="is not signed"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))


def sign_changed_statement(folder: Path, path: Path, change: Callable[[str], str]) -> Path:
    """Signs a changed statement, and returns the public key for which its signature is valid."""
    private = ec.generate_private_key(ec.SECP256R1())
    private_path, public = keys(path, "key", private)
    sign.sign(folder, private_path)

    def edit(envelope: dict[str, Any]) -> None:
        payload = change(json.dumps(json.loads(base64.b64decode(envelope["payload"])))).encode()
        payload_type = envelope["payloadType"]
        prefix = f"DSSEv1 {len(payload_type)} {payload_type} {len(payload)} ".encode()
        signature_bytes = private.sign(prefix + payload, ec.ECDSA(signature._CURVES["secp256r1"]))
        envelope["payload"] = base64.b64encode(payload).decode()
        envelope["signatures"][0]["sig"] = base64.b64encode(signature_bytes).decode()

    edit_envelope(folder, edit)
    return public


def test_a_statement_that_lists_a_file_twice_is_refused(copy: Path, tmp_path: Path) -> None:
    def repeat_file(text: str) -> str:
        statement = json.loads(text)
        resources = statement["predicate"]["resources"]
        resources.append(resources[0])
        total = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources))
        statement["subject"][0]["digest"]["sha256"] = total.hexdigest()
        return json.dumps(statement)

    verify.check_integrity(copy, VerifyOptions(key=sign_changed_statement(copy, tmp_path, str)))
    with pytest.raises(Refused, match="it lists a file twice"):
        verify.check_integrity(copy, VerifyOptions(key=sign_changed_statement(copy, tmp_path, repeat_file)))


def test_a_signature_that_only_names_the_key_is_refused(copy: Path, ours: Keys, theirs: Keys) -> None:
    path = copy / SIGNATURE_FILE
    hint = json.loads(path.read_text())["verificationMaterial"]["publicKey"]["hint"]
    sign.sign(copy, theirs[0])
    statement = json.loads(path.read_text())
    assert statement["verificationMaterial"]["publicKey"]["hint"] != hint
    statement["verificationMaterial"]["publicKey"]["hint"] = hint
    path.write_text(json.dumps(statement))
    with pytest.raises(Refused, match="is not by the key"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))


def test_an_unsigned_file_is_refused(copy: Path, ours: Keys) -> None:
    (copy / "more").write_text("x")
    with pytest.raises(Refused, match="more is not signed"):
        signature.check(copy, manifest_digest(copy), ours[1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("in-toto.io/Statement/v1", "in-toto.io/Statement/v2"),
        ("model_signing/signature/v1.0", "model_signing/Digests/v0.1"),
        ('"algorithm": "sha256"', '"algorithm": "sha512"'),
        ('"name": "manifest.json"', '"name": "recipe.json"'),
        ('"method": "files"', '"method": "shards"'),
        ('{"sha256": "', '{"sha256": "0'),
        ('"}}]', '"}}, {}]'),
        ("{", "[" * 100_000),
    ],
)
def test_a_statement_of_another_type_is_refused_even_with_a_valid_signature(
    copy: Path, tmp_path: Path, old: str, new: str
) -> None:
    def edited(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    public = sign_changed_statement(copy, tmp_path, edited)
    with pytest.raises(Refused, match="is not in the form that deploytool writes"):
        verify.check_integrity(copy, VerifyOptions(key=public))


def test_unusable_keys_are_bad_input(copy: Path, tmp_path: Path, ours: Keys) -> None:
    long, locked = tmp_path / "long.pem", tmp_path / "locked.pem"
    long.write_bytes(b"#" * signature._MAX_KEY_BYTES + b"\n" + ours[1].read_bytes())
    private = ec.generate_private_key(ec.SECP256R1())
    locked.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    foreign = keys(tmp_path, "ed25519", ed25519.Ed25519PrivateKey.generate())
    unsupported = keys(tmp_path, "secp256k1", ec.generate_private_key(ec.SECP256K1()))
    for key, problem in (
        (tmp_path / "none.pem", "cannot be read"),
        (copy / "recipe.json", "is not a public key"),
        (ours[0], "is not a public key"),
        (long, "is not a public key"),
        (foreign[1], "is not a key on secp256r1"),
        (unsupported[1], "is not a key on secp256r1"),
    ):
        with pytest.raises(BadInput, match=problem):
            verify.check_integrity(copy, VerifyOptions(key=key))
    for key, problem in (
        (tmp_path / "none.pem", "cannot be read"),
        (ours[1], "is not a private key in PEM"),
        (locked, "is encrypted with a password"),
        (foreign[0], "is not a private key on secp256r1"),
        (unsupported[0], "is not a private key on secp256r1"),
    ):
        with pytest.raises(BadInput, match=problem):
            sign.sign(copy, key)


def test_a_missing_cryptography_is_a_missing_backend(copy: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "deploytool.bundle.signature")
    monkeypatch.delattr("deploytool.bundle.signature")
    verify.check_integrity(copy)
    with pytest.raises(MissingBackend, match="a signature is required, and cryptography is not installed"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))


def test_an_installed_bundle_keeps_its_signature(signed: Path, tmp_path: Path, ours: Keys, theirs: Keys) -> None:
    unsigned = Path(shutil.copytree(signed, tmp_path / "unsigned"))
    (unsigned / SIGNATURE_FILE).unlink()
    root = tmp_path / "root"
    with pytest.raises(Refused, match="is not signed"):
        install.install(unsigned, root, lambda _: None, key=ours[1])
    first = install.install(unsigned, root, lambda _: None)  # no signature is required
    with pytest.raises(Refused, match="is not signed"):
        verify.check_integrity(unsigned, install.verify_options(root, key=ours[1]))
    second = install.install(signed, root, lambda _: None, key=ours[1])
    assert (second.current, second.previous) == (first.current, None)
    verify.check_integrity(install.bundle_path(root, second.current), VerifyOptions(key=ours[1]))
    for place in (root, signed):  # installed, and opened where it lies
        with pytest.raises(Refused, match="is not by the key"), serve(place, require_signature=theirs[1]):
            pass


def test_rollback_requires_the_signature(packed: Path, signed: Path, tmp_path: Path, ours: Keys) -> None:
    unsigned, root = small.small(packed, tmp_path / "unsigned", 2, seed=1), tmp_path / "root"
    install.install(unsigned, root, lambda _: None)
    pointer = install.install(signed, root, lambda _: None, key=ours[1])
    with pytest.raises(Refused, match="is not signed"):
        install.rollback(root, ours[1])
    assert install.read_pointer(root) == pointer
    assert install.rollback(root).current == manifest_digest(unsigned)


def test_a_bundle_replaced_after_the_copy_is_not_verified(
    packed: Path, signed: Path, tmp_path: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where locks do not work, and another process has replaced the copy."""
    verified: list[Integrity] = []
    unsigned = Path(shutil.copytree(signed, tmp_path / "unsigned", ignore=shutil.ignore_patterns(SIGNATURE_FILE)))
    other_bundle = small.small(packed, tmp_path / "other", 4, seed=1)
    for replacement, reason in ((other_bundle, "is another bundle"), (unsigned, "is not signed")):
        monkeypatch.setattr(
            install, "_copy", lambda _, path, *__, replacement=replacement, **___: shutil.copytree(replacement, path)
        )
        with pytest.raises(Refused, match=reason):
            install.install(signed, tmp_path / f"root-{replacement.name}", verified.append, key=ours[1])
        assert install.read_pointer(tmp_path / f"root-{replacement.name}") is None
    assert not verified
