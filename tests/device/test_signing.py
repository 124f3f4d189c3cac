"""Signatures are interoperable with the model-signing package."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, verifying
from model_signing import signing as oms

from deploytool.bundle import sign
from deploytool.bundle.manifest import SIGNATURE_FILE
from deploytool.device import verify
from deploytool.device.verify import VerifyOptions
from deploytool.errors import Refused
from deploytool.host import files
from tests.device import small
from tests.device.keys import Keys, keys


def verify_with_model_signing(folder: Path, key: Path) -> None:
    verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, folder / SIGNATURE_FILE)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_model_signing_verifies_what_we_sign(copy: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = keys(tmp_path, "key", ec.generate_private_key(curve))
    sign.sign(copy, private)
    verify_with_model_signing(copy, public)
    verify.check_integrity(copy, VerifyOptions(key=public))
    (copy / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match="mismatch"):
        verify_with_model_signing(copy, public)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_we_verify_what_model_signing_signs(copy: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = keys(tmp_path, "key", ec.generate_private_key(curve))
    (copy / SIGNATURE_FILE).unlink()
    oms.Config().use_elliptic_key_signer(private_key=private).sign(copy, copy / SIGNATURE_FILE)
    step = verify.check_integrity(copy, VerifyOptions(key=public)).steps[0]
    assert (step.name, step.status) == ("signature", f"held: {len(small.paths(copy))} files, by {public}")


@pytest.mark.parametrize(
    "hash_config",
    [
        hashing.Config().use_file_serialization(hashing_algorithm="blake2"),
        hashing.Config().use_shard_serialization(shard_size=100),
        hashing.Config().use_file_serialization(allow_symlinks=True).set_allow_symlinks(True),
    ],
    ids=["blake2", "shards", "links"],
)
def test_a_signature_with_another_hashing_is_refused(copy: Path, ours: Keys, hash_config: hashing.Config) -> None:
    (copy / SIGNATURE_FILE).unlink()
    oms.Config().use_elliptic_key_signer(private_key=ours[0]).set_hashing_config(hash_config).sign(
        copy, copy / SIGNATURE_FILE
    )
    with pytest.raises(Refused, match="one by one with SHA-256"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))


def test_a_path_that_the_signer_ignored_is_refused(copy: Path, ours: Keys) -> None:
    (copy / SIGNATURE_FILE).unlink()
    (copy / ".gitignore").write_text("*")  # model-signing leaves it out by itself
    hash_config = hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE])
    oms.Config().use_elliptic_key_signer(private_key=ours[0]).set_hashing_config(hash_config).sign(
        copy, copy / SIGNATURE_FILE
    )
    verify_with_model_signing(copy, ours[1])
    with pytest.raises(Refused, match=r"\.gitignore is not signed"):
        verify.check_integrity(copy, VerifyOptions(key=ours[1]))


def test_a_changed_bundle_is_not_signed(copy: Path, ours: Keys) -> None:
    (copy / "recipe.json").write_text("{}")
    with pytest.raises(Refused, match="than the manifest says"):
        sign.sign(copy, ours[0])


def test_a_refused_signing_keeps_the_present_signature(copy: Path, ours: Keys) -> None:
    before = (copy / SIGNATURE_FILE).read_bytes()
    (copy / "recipe.json").write_bytes(bytes((copy / "recipe.json").stat().st_size))
    with pytest.raises(Refused, match="has other bytes than the manifest says"):
        sign.sign(copy, ours[0])
    assert (copy / SIGNATURE_FILE).read_bytes() == before


def test_a_signature_is_verified_after_it_is_written(copy: Path, ours: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    original = files.publish

    def publish(path: Path, content: bytes, beside: Path | None = None) -> None:
        assert b'"keyid":""' in content
        original(path, content.replace(b'"keyid":""', b'"keyid":"x"'), beside)

    monkeypatch.setattr(files, "publish", publish)
    with pytest.raises(Refused, match="is not in the form that deploytool writes"):
        sign.sign(copy, ours[0])
