"""Writes the outputs of a training: history, learning curve, weights (read by `export`) and a summary."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from deploytool import serde
from deploytool.training import curve
from deploytool.training.checkpoint import State, atomic_file
from deploytool.training.recipe import Epoch, Results
from deploytool.training.task import TrainingTask

WEIGHTS, HISTORY, CURVE, SUMMARY = "weights.safetensors", "history.csv", "curve.svg", "training.json"


def write_history(out: Path, history: tuple[Epoch, ...]) -> None:
    """Writes the table and the learning curve of all epochs so far."""
    rows = [_row(record) for record in history]
    with atomic_file(out / HISTORY) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    with atomic_file(out / CURVE) as unfinished:
        unfinished.write_text(curve.draw(history), encoding="utf-8")


def _row(record: Epoch) -> dict[str, float]:
    return {
        "epoch": record.epoch,
        "learning_rate": record.learning_rate,
        "train_loss": record.train.loss,
        "train_accuracy": record.train.accuracy,
        "validation_loss": record.validation.loss,
        "validation_accuracy": record.validation.accuracy,
        "seconds": record.seconds,
    }


def write(out: Path, task: TrainingTask, best: State, results: Results) -> None:
    """Writes the best weights, with the model's definition in their metadata, and a summary of the training."""
    summary = {
        "model": task.model,
        "classes": task.data.classes,
        "recipe": task.recipe,
        "results": results,
        "data": _data_summary(task),
        "versions": _versions(),
    }
    metadata = {name: json.dumps(serde.encode(value), ensure_ascii=False) for name, value in summary.items()}
    with atomic_file(out / WEIGHTS) as unfinished:
        save_file(best, unfinished, metadata)
    with atomic_file(out / SUMMARY) as unfinished:
        unfinished.write_text(serde.text(summary), encoding="utf-8")


def _data_summary(task: TrainingTask) -> Mapping[str, int | str]:
    data = task.data
    counts = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    return {**counts, "sha256": data.digest()}


def _versions() -> Mapping[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": device,
    }
