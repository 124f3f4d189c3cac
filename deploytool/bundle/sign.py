"""Signs a bundle with an elliptic-curve key in the format of OpenSSF Model Signing, and verifies the signature."""

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
    """Signs every file of a bundle with the private key in `key` (PEM), and returns their number.

    The signature is published beside the manifest atomically, and is then verified with the public key.
    Raises BadInput if there is no such key, Refused if the files differ from the manifest.
    """
    public_key = _public_key_pem(key)
    check_files(folder, read_manifest(folder))
    hash_config = hashing.Config().use_file_serialization(hashing_algorithm="sha256", max_workers=1)
    hash_config.set_ignored_paths(paths=signature.UNSIGNED, ignore_git_paths=False)
    sign_config = oms.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hash_config)
    with scratch.folder() as temporary, disk.writing(temporary, named=folder):
        signature_file, public_key_file = temporary / SIGNATURE_FILE, temporary / "public.pem"
        public_key_file.write_bytes(public_key)
        sign_config.sign(folder.resolve(), signature_file)
        files.publish(folder / SIGNATURE_FILE, signature_file.read_bytes(), folder.absolute().parent)
        return signature.check(folder, manifest_digest(folder), public_key_file)


def _public_key_pem(key: Path) -> bytes:
    """The public key of a private key, as PEM."""
    remedy = "openssl ecparam -name prime256v1 -genkey -noout -out PRIVATE.pem makes one"
    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise BadInput(f"{key} cannot be read: {error.strerror}", "check the path and its permissions") from error
    except TypeError as error:
        raise BadInput(f"{key} is encrypted with a password", "give a key without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{key} is not a private key in PEM", remedy) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in signature.CURVES:
        raise BadInput(f"{key} is not a private key on {', '.join(signature.CURVES)}", remedy)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
