"""`deploytool sign`: signs a bundle, so that a device can check who made it."""

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
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key (PEM) of an elliptic curve.")],
) -> Outcome:
    """Signs every file of a bundle, in the format of OpenSSF Model Signing, and writes model.sig into it.

    Example: deploytool sign artifacts/shufflenet_g3/pack/bundle --key private.pem
    """
    try:
        from deploytool.bundle import sign as bundle_sign  # imports model-signing
    except ModuleNotFoundError as error:
        problem = f"signing needs {error.name}, which is not installed"
        raise MissingBackend(problem, "pip install 'deploytool[sign]'") from error
    count = bundle_sign.sign(bundle, key)
    line = f"{bundle / SIGNATURE_FILE}: {count} files signed"
    console.say(console.stdout_console(), line)
    document = {"signature": str(bundle / SIGNATURE_FILE), "files": count, "digest": manifest_digest(bundle)}
    step = f"on the device: python -m deploytool.device verify {bundle} --require-signature PUBLIC.pem"
    return Outcome(document, line, next=step)
