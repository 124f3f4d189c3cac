"""Signs a bundle with an elliptic-curve key, in the format of OpenSSF Model Signing, and checks what it wrote."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from model_signing import hashing
from model_signing import signing as oms

from deploytool.bundle import signature
from deploytool.bundle.manifest import SIGNATURE_FILE, check_files, manifest_digest, read_manifest
from deploytool.errors import BadInput
from deploytool.host import disk, files, scratch


def sign(folder: Path, key: Path) -> int:
    """Signs every file of a bundle with the private key in `key` (PEM), and says how many they are.

    The signature takes its place beside the manifest as a whole, and is then verified with the key's public half.
    Raises BadInput if there is no such key, Refused if the bundle is not as its manifest says.
    """
    public = _public_half(key)
    check_files(folder, read_manifest(folder))
    how = hashing.Config().use_file_serialization(hashing_algorithm="sha256", max_workers=1)
    how.set_ignored_paths(paths=signature.UNSIGNED, ignore_git_paths=False)
    config = oms.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(how)
    with scratch.folder() as bench, disk.writing(bench, named=folder):
        made, other_half = bench / SIGNATURE_FILE, bench / "public.pem"
        other_half.write_bytes(public)
        config.sign(folder.resolve(), made)
        files.publish(folder / SIGNATURE_FILE, made.read_bytes(), folder.absolute().parent)
        return signature.check(folder, manifest_digest(folder), other_half)


def _public_half(key: Path) -> bytes:
    remedy = "openssl ecparam -name prime256v1 -genkey -noout -out PRIVATE.pem makes one"
    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise BadInput(f"{key} cannot be read: {error.strerror}", "check the path and its rights") from error
    except TypeError as error:
        raise BadInput(
            f"{key} is locked with a password", "give a key that is not, from where keys are safe"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{key} is no private key in PEM", remedy) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in signature.CURVES:
        raise BadInput(f"{key} is no private key on {', '.join(signature.CURVES)}", remedy)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
