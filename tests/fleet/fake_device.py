"""Stands for `deploytool.device` on a device of these tests: quick, and it does as ROOT/control.json says.

`state` is what `status` prints, `sleep` gives seconds by command, `fail` the error by command, and `lines` the number
of lines that each command says meanwhile. Every command is recorded in ROOT/commands.jsonl with its times.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


def main() -> None:
    name, *words = sys.argv[1:]
    options = dict(pairwise(words))
    root = Path(options["--root"]) if "--root" in options else Path(words[0]).parents[1]
    control = json.loads((root / "control.json").read_text())
    began = time.time()
    say(control.get("lines", 0), control.get("sleep", {}).get(name, 0.0))
    error = control.get("fail", {}).get(name)
    document: Any = None
    if error is None:
        document = {"install": install, "rollback": rollback, "status": status}.get(name, proof)(root, words)
    with (root / "commands.jsonl").open("a") as log:
        log.write(json.dumps({"command": name, "began": began, "ended": time.time()}) + "\n")
    print(json.dumps({"result": document, "error": error}))
    sys.exit(error["exit_code"] if error else 0)


def say(lines: int, seconds: float) -> None:
    for number in range(lines):
        print(f"line {number}", file=sys.stderr, flush=True)
        time.sleep(seconds / lines)
    if not lines:
        time.sleep(seconds)


def pointer_of(root: Path) -> dict[str, Any] | None:
    return json.loads((root / "current").read_text()) if (root / "current").exists() else None


def write(root: Path, pointer: dict[str, Any]) -> dict[str, Any]:
    (root / ".current").write_text(json.dumps(pointer))
    (root / ".current").replace(root / "current")
    return pointer


def status(root: Path, words: list[str]) -> object:
    state = json.loads((root / "control.json").read_text())["state"]
    return {**state, "pointer": pointer_of(root)}


def install(root: Path, words: list[str]) -> object:
    source = Path(words[0])
    digest = hashlib.sha256((source / "manifest.json").read_bytes()).hexdigest()
    sequence = json.loads((source / "manifest.json").read_text())["sequence"]
    shutil.copytree(source, root / "bundles" / digest, dirs_exist_ok=True)
    before = pointer_of(root) or {"current": None, "previous": None}
    previous = before["previous"] if before["current"] == digest else before["current"]
    return {"pointer": write(root, {"current": digest, "previous": previous, "sequence": sequence, "refused": {}})}


def rollback(root: Path, words: list[str]) -> object:
    before = pointer_of(root)
    assert before is not None
    return write(root, {**before, "current": before["previous"], "previous": before["current"]})


def proof(root: Path, words: list[str]) -> object:
    return {"digest": Path(words[0]).name, "tried": []}


if __name__ == "__main__":
    main()
