"""What a finished run was scored with, found again: its real images, its classifier with the gate, its FID features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .config import ResolvedConfig, RunConfig
from .errors import UserError
from .extractors import Extracted, Extractor, pick_device
from .files import digest, read_json
from .model import read_labels
from .pictures import Pictures
from .presets import resolve
from .sources import read_config
from .stage import Stage, data_stage, raise_gate, with_instruments


def has_published(run: Path) -> bool:
    """Whether a run was scored by a published classifier, which its model does not bring along."""
    return (run / "config.yaml").is_file() and (run / "model").is_dir() and not (run / "model" / "classifier").is_dir()


def run_stage(run: Path, side: int) -> tuple[ResolvedConfig, Any, Stage]:
    """The run's config, what its model says of itself, and its data, ``side`` pixels wide. Reads no weights."""
    config, folder = resolve(RunConfig([], config=str(run / "config.yaml"))), run / "model"
    pack = read_json(folder / "erase.json") if (folder / "erase.json").is_file() else {}
    labels = read_labels(folder)
    slots = int(read_config(folder)["num_embeds_ada_norm"])
    classes = list(pack.get("classes", labels))
    model = SimpleNamespace(
        labels=labels, num_classes=slots, classes=classes, pack=pack, folder=folder, image_size=side
    )
    return config, model, data_stage(config, model)  # type: ignore[arg-type]


def run_reference(run: Path, side: int) -> Pictures:
    """The real images that the run's retained classes were compared with, and all of its forgotten ones."""
    config, _, stage = run_stage(run, side)
    images, forget = stage.images, [int(label) for label in config.forget]
    rows = np.union1d(stage.reference_rows, images.select(forget))
    key = digest(images.size, images.digests(rows), images.labels[rows].tolist())
    files = tuple(images.files[row] for row in rows.tolist()) if images.files else ()
    arrays = None if images.arrays is None else images.arrays[rows]
    return Pictures(images.origin, f"images-{key}", files, arrays=arrays, labels=images.labels[rows])


def run_extractor(run: Path, side: int, device: str = "auto") -> Extractor:
    """The run's classifier with its gate, both from the cache or made anew, and the features of its distance.

    Raises UserError for weights or images that are missing.
    """
    place = pick_device(device)
    config, model, stage = run_stage(run, side)
    score = replace(config.score, allow_missing=False)  # what the run did without, is asked for now
    config = replace(config, runtime=replace(config.runtime, device=place.type), score=score)
    stage = raise_gate(with_instruments(stage, config, model), place)
    instrument, other = stage.instrument, stage.extractor
    if instrument is None:
        raise UserError(f"the run {run} has no classifier; give --extractor")
    network, gate = instrument.network.to(place), instrument.gate.to(place)

    def forward(images: torch.Tensor, ask: bool) -> Extracted:
        logits, features, middle = network(images)
        passed = gate.distance(middle) <= gate.threshold if ask else None
        return Extracted(features if other is None else other(images).features, logits, passed)

    if other is None:
        name, key, layer = instrument.name, instrument.key, network.feature_layer
    else:
        name, key, layer = f"{instrument.name}, {other.name}", digest(instrument.key, other.key), other.layer
    return Extractor(name, key, layer, place, forward, tuple(instrument.classes))
