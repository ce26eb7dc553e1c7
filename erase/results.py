"""What results.json holds: the protocol, and both models' scores under it."""

from __future__ import annotations

import importlib.metadata
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .config import ResolvedConfig
from .metrics.fid import statistics
from .model import Model
from .presets import config_hash
from .scoring import describe, folder_features, read_folder, score_reading
from .stage import Stage, extract

NEAREST = 10  # other classes that results.json names, nearest first


def score(
    config: ResolvedConfig, model: Model, stage: Stage, forget: list[int], output: Path, original: Path
) -> dict[str, Any]:
    """results.json without its times. ``original``: the cached samples of the original model, named by their key."""
    classes, counts = list(stage.counts), list(stage.counts.values())
    retain = [label for label in classes if label not in forget]
    sample = config.sample
    protocol: dict[str, Any] = {
        "samples": {
            side: sum(stage.counts[c] for c in part) for side, part in (("forget", forget), ("retain_total", retain))
        },
        "sample_seed": sample.seed,
        "guidance_scale": sample.guidance_scale,
        "guidance_channels": sample.guidance_channels,
        "sampler": sample.sampler,
        "steps": sample.steps,
    }
    if len(classes) < len(model.classes):
        protocol["retained_classes"] = len(retain)
    if stage.instrument is None:
        absent: dict[str, Any] = {
            **dict.fromkeys(("fa", "fa_top1", "not_an_image", "ra", "fid", "per_class_accuracy")),
            "metrics": {},
            "why": stage.why,
        }
        models = {"original": absent, "erased": absent}
        protocol |= dict.fromkeys(("classifier", "gate", "extractor", "reference", "reference_count"))
    else:
        features = stage.real_features() if stage.distance else None
        reference = statistics(features) if features is not None else None
        protocol |= {**describe(stage.instrument, stage.reference_key()), "reference_count": None}
        if features is not None:
            protocol["reference_count"] = len(features)
        else:
            protocol |= {"extractor": None, "reference": None}
        if stage.extractor is not None:
            protocol["extractor"] = f"{stage.extractor.name}-{stage.extractor.key[:8]}"
        if stage.gate_rows is not None:
            protocol["gate_images"] = len(stage.gate_rows)
        models = {}
        erased = output / "samples" / "erased"
        for side, folder, cache in (("original", original, original.name), ("erased", erased, None)):
            reading = read_folder(stage.instrument, folder, classes, counts, cache)
            wide = None
            if stage.extractor is not None:
                wide = folder_features(partial(extract, stage.extractor), folder, stage.counts)
            models[side] = score_reading(reading, classes, forget, counts, reference, config.score.bootstrap, wide)
            models[side] |= {"why": stage.why} if stage.why else {}
    return {
        "version": 1,
        "complete": True,
        "config_hash": config_hash(config),
        "forget": [{"index": label, "name": model.labels[label]} for label in forget],
        "nearest": stage.nearest(forget)[:NEAREST],
        "method": config.method.name,
        "optimizer": config.optimizer.policy,
        "seed": config.seed,
        "protocol": protocol,
        "models": models,
        "seconds": {},
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    names = ("erase", "torch", "diffusers", "accelerate", "torch-fidelity")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source"
    return found
