"""`deploytool sign`: a bundle that says who made it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.bundle.manifest import SIGNATURE_FILE, manifest_digest
from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.errors import MissingBackend


def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="A private key on an elliptic curve, in PEM.")],
) -> Outcome:
    """Signs every file of a bundle, in the format of OpenSSF Model Signing: model.sig, beside the manifest.

    Example: deploytool sign artifacts/shufflenet_g3/pack/bundle --key private.pem
    """
    try:
        from deploytool.bundle import sign as bundle_sign  # here begins model-signing
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed, and signing needs it"
        raise MissingBackend(problem, "pip install 'deploytool[sign]'") from error
    count = bundle_sign.sign(bundle, key)
    line = f"{bundle / SIGNATURE_FILE}: {count} files are signed"
    console.say(console.stdout_console(), line)
    document = {"signature": str(bundle / SIGNATURE_FILE), "files": count, "digest": manifest_digest(bundle)}
    step = f"on the device: python -m deploytool.device verify {bundle} --require-signature PUBLIC.pem"
    return Outcome(document, line, next=step)
