"""Stands for the process of a cell: it sleeps and writes a file instead of exporting, and logs when it ran."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from deploytool import serde
from deploytool.results.sweep import Cell, CellResult, CellState
from deploytool.sweeps.job import MAX_BYTES, ChildTask

LOG, CONTROL = "log.jsonl", "control.json"  # beside the folder of the sweep
MODULE = "tests.sweeps.fake_child"
CONTENT = b"weights" * 1_000_000  # more than one piece of a transfer


def main() -> None:
    make(serde.decode(ChildTask, serde.loads(sys.stdin.readline(), MAX_BYTES)))


def make(task: ChildTask) -> None:
    root, job = Path(task.root), task.job
    control = root.parent / CONTROL
    behaviour = json.loads(control.read_text()) if control.exists() else {}
    mine = behaviour.get(job.folder if job.cell else "shared", "")
    if mine == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if mine == "exit":
        os._exit(0)
    if mine == "die once":
        control.write_text(json.dumps({**behaviour, job.folder: ""}))
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.time()
    time.sleep(behaviour.get("sleep", 0.0))
    home = root / job.folder
    (home / "fp16").mkdir(parents=True, exist_ok=True)
    (home / "fp16" / "model.onnx").write_bytes(job.key.encode() + (CONTENT if mine == "large" else b""))
    result = CellResult(job.cell or Cell(job.folder, job.model), CellState.PASSED, job.folder)
    if mine == "fail":
        result = replace(result, state=CellState.REFUSED, exit_code=7, problem="it is odd", remedy="mend it")
    elif job.cell:
        name = "fp16/model.onnx"
        size = (home / name).stat().st_size
        result = replace(result, digests={name: serde.file_digest(home / name)}, sizes={name: size})
    if behaviour.get("reads"):
        assert Path(task.cwd, behaviour["reads"]).is_file()
    with (root.parent / LOG).open("a") as log:
        log.write(json.dumps({"folder": job.folder, "started": started, "ended": time.time()}) + "\n")
    Path(task.result).write_text(serde.text(result))
