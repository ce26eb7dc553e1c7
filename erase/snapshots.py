"""A few images of the forgotten and one other class, drawn on the way, so that one can watch the class fade."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from .config import ResolvedConfig
from .model import Model
from .sampling import sample_folder

IMAGES = 4


def snapshot_folder(output: Path, step: int) -> Path:
    return output / "snapshots" / f"{step:06d}"


def take_snapshot(model: Model, config: ResolvedConfig, classes: Sequence[int], output: Path, step: int) -> None:
    """Images 0 .. 3 of each class after ``step`` steps, from the seeds of the run's own samples."""
    few = dataclasses.replace(config.sample, per_class=IMAGES, block=IMAGES)
    training = model.transformer.training
    with torch.no_grad():
        sample_folder(model, snapshot_folder(output, step), few, classes, "", config.runtime.precision)
    model.transformer.train(training)
