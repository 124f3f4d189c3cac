"""Stands for `deploytool.device` where 200 deployments are made: the real installs and rollbacks, and no model is run.

It runs before the real package in the search path, and gives way to it. A proof is a complete integrity check, which
fails where ROOT/control.json says so; the digest of each bundle that was proved is in ROOT/proved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("command", "bundle"):
        parser.add_argument(name, nargs="?")
    for option in ("--root", "--digest", "--require", "--seconds"):
        parser.add_argument(option)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    root = Path(words.root or Path(words.bundle).parents[1])
    control = json.loads((root / "control.json").read_text())
    error = control.get("fail", {}).get(words.command)
    document = None if error else carry_out(words, root, control)
    _, serde, _ = real()
    print(serde.text({"result": document, "error": error}))
    sys.exit(error["exit_code"] if error else 0)


def real() -> tuple[Any, Any, Any]:
    """The modules of the real package, which takes the place of this one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "deploytool"]:
        del sys.modules[name]
    sys.path[:] = [os.environ["REAL"], *sys.path]
    from deploytool import serde
    from deploytool.device import install, verify

    return install, serde, verify


def carry_out(words: argparse.Namespace, root: Path, control: Any) -> object:
    install, _, verify = real()

    def prove(checked: Any) -> None:
        (root / "proved").mkdir(exist_ok=True)
        (root / "proved" / checked.digest).touch()

    if words.command == "status":
        return {**control["state"], "pointer": install.read_pointer(root)}
    if words.command == "install":
        return {"pointer": install.install(Path(words.bundle), root, prove, words.digest)}
    if words.command == "rollback":
        return install.rollback(root)
    digest = Path(words.bundle).name
    return {
        "digest": verify.check_integrity(Path(words.bundle), verify.VerifyOptions(digest=digest)).digest,
        "tried": [],
    }


if __name__ == "__main__":
    main()
