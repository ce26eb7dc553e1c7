"""The main flow of ``erase run``: load, preflight, split, precompute, unlearn, sample, score, save."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from .classifier import Instrument, load_instrument
from .config import ResolvedConfig, RunConfig, SampleConfig, as_mapping, differences
from .data.images import ImageSet, load_images
from .data.latents import LatentStream, Moments, encode_moments
from .diffusion import Schedule
from .errors import UserError
from .files import cache_folder, digest, once, read_json, replacing_folder, write_json, write_text
from .labels import find_forget
from .methods import Beforehand, find_method
from .metrics.fid import statistics
from .model import Model, load_model, save_model, weights_key
from .optim import make_policy
from .presets import config_hash, output_folder, resolve, with_classes
from .report.card import model_card
from .report.grid import draw_grid, grid_classes
from .sampling import sample_folder
from .scoring import describe, nearest_classes, read_folder, real_features, score_reading
from .task import DiffusionTask
from .trainer import Trainer, make_accelerator


def run(request: RunConfig, words: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes a model forget classes and measures it; what ``results.json`` holds.

    A finished run of the same config is returned as it is, an unfinished one continued. Raises UserError for anything
    the user can mend.
    """
    return run_in_folder(request, words)[0]


def run_in_folder(request: RunConfig, words: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Path]:
    """As :func:`run`; also the run folder."""
    started = time.monotonic()
    config = resolve(request, words)
    model = load_model(config.model.source, config.model.vae, config.model.num_heads)
    forget = find_forget(config.forget, model.labels)
    config = with_classes(config, forget)
    output = output_folder(request, config, forget)
    claim_folder(output, config)
    if (output / "results.json").is_file():
        return dict(read_json(output / "results.json")), output

    stage = preflight(config, model, forget)
    seconds: dict[str, float] = {}
    accelerator = make_accelerator(config.runtime, output)
    model.to(accelerator.device)
    if config.runtime.tracker:
        accelerator.init_trackers("erase")

    with timed(seconds, "sample"):
        original = original_samples(model, config.sample)

    with timed(seconds, "precompute"):
        split = encode_split(config, model, stage.images, forget)
        task = DiffusionTask(
            accelerator.prepare_model(model.transformer), Schedule(), model.classes, forget, model.null_label
        )
        method = find_method(config.method.name)(config.method, task)
        prepared = precompute(output / "precomputed", config, method, model, split, accelerator.device)
        method.start(prepared, dict(model.transformer.named_parameters()))

    with timed(seconds, "unlearn"):
        policy = make_policy(config.optimizer, model.transformer.parameters())
        streams = {side: split.stream(side, config, model.null_label) for side in ("forget", "retain")}
        state = output / "state" / "trainer.safetensors"
        key = config_hash(as_mapping(config))
        metrics, every = output / "metrics.jsonl", config.runtime.save_every
        trainer = Trainer(
            accelerator, model.transformer, method, policy, streams, config.unlearn, state, key, metrics, every
        )
        trainer.run()

    with timed(seconds, "sample"):
        copy_samples(original, output / "samples" / "original", config.sample, model.classes)
        sample_folder(model, output / "samples" / "erased", config.sample, model.classes, "sample erased")

    with timed(seconds, "score"):
        results = score(config, model, stage, forget, output, original)

    title = (
        f"erase: forget {', '.join(model.labels[c] for c in forget)}  ({config.method.name}, {config.optimizer.policy})"
    )
    near = []
    if stage.instrument is not None:
        near = nearest_classes(real_features(stage.instrument, stage.images), stage.images.labels, forget)
    shown = grid_classes(model.classes, forget, near)
    draw_grid(output / "samples", output / "grid.png", model.labels, shown, forget, title)
    model.card = model_card(results, weights_key(model.transformer))
    save_model(model, output / "model")
    seconds["total"] = time.monotonic() - started
    results["seconds"] = {key: round(value, 2) for key, value in seconds.items()}
    write_json(output / "results.json", results)
    if not config.runtime.keep_state:
        shutil.rmtree(output / "state", ignore_errors=True)
    if config.runtime.tracker:
        accelerator.end_training()
    return results, output


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - begin


def claim_folder(output: Path, config: ResolvedConfig) -> None:
    """Makes the run folder and writes config.yaml, or checks that the folder holds this very run.

    Raises UserError naming the keys that differ, or if the folder cannot be written or holds something else.
    """
    wanted = as_mapping(config)
    path = output / "config.yaml"
    if path.is_file():
        held = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        different = [key for key in differences(held, wanted) if not key.startswith("runtime")]
        if different:
            raise UserError(
                f"{output} holds a run of another config; it differs in {', '.join(different)}; give another --output"
            )
    elif output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty and holds no run; give another --output")
    try:
        write_text(path, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"cannot write the output folder {output}: {error.strerror}") from None


@dataclass
class Stage:
    """What the end of a run needs, found before its first step."""

    images: ImageSet
    instrument: Instrument | None
    why: str = ""


def preflight(config: ResolvedConfig, model: Model, forget: list[int]) -> Stage:
    """Checks everything a run will need at its end. Raises UserError for what is missing."""
    images = load_images(data_source(config, model), model.image_size, folder_classes(model))
    for label in model.classes:
        if not len(images.select([label], held_out=False)):
            raise UserError(f"the data holds no image of class {label} ({model.labels[label]})")
    if model.folder is None:
        raise UserError("the model has no folder to take its classifier from")
    try:
        instrument = load_instrument(model.folder / "classifier")
    except UserError as error:
        if not config.score.allow_missing:
            raise
        return Stage(images, None, str(error))
    return Stage(images, instrument)


def data_source(config: ResolvedConfig, model: Model) -> str:
    """The config's data, else the pack's own."""
    source = config.data.source or (model.pack or {}).get("data", {}).get("source")
    if not source:
        raise UserError("no data; give --data digits or --data DIR with one sub-folder a class")
    return str(source)


def folder_classes(model: Model) -> dict[str, int]:
    """Sub-folder names to class ids, for a data folder."""
    return {name: label for label, name in model.labels.items()}


@dataclass(frozen=True)
class Split:
    """The training images' moments, with the rows of each side."""

    moments: Moments
    rows: dict[str, np.ndarray]
    labels: np.ndarray

    def stream(self, side: str, config: ResolvedConfig, null: int) -> LatentStream:
        """Training batches; labels are dropped on the retain side alone."""
        dropout = config.unlearn.label_dropout if side == "retain" else 0.0
        size = getattr(config.unlearn, side).batch_size
        return self._stream(side, config.seed, size, null, dropout, side)

    def whole(self, side: str, config: ResolvedConfig, null: int, size: int) -> LatentStream:
        """Batches for what is computed beforehand: no label dropout, a stream of its own."""
        return self._stream(side, config.seed, size, null, 0.0, f"precompute/{side}")

    def _stream(self, side: str, seed: int, size: int, null: int, dropout: float, name: str) -> LatentStream:
        rows = self.rows[side]
        return LatentStream(self.moments, rows, self.labels[rows % len(self.labels)], seed, name, size, null, dropout)


def encode_split(config: ResolvedConfig, model: Model, images: ImageSet, forget: list[int]) -> Split:
    """Latent moments of the training images, and which rows are forgotten and retained."""
    chosen = images.select(model.classes, held_out=False)
    moments = encode_moments(model.vae, images, chosen, weights_key(model.vae), config.data.flip)
    labels = images.labels[chosen]
    gone = np.isin(labels, forget)
    rows = {"forget": np.flatnonzero(gone), "retain": np.flatnonzero(~gone)}
    if config.data.flip:
        rows = {side: np.concatenate([r, r + len(labels)]) for side, r in rows.items()}
    return Split(moments, rows, labels)


def precompute(
    folder: Path, config: ResolvedConfig, method: Any, model: Model, split: Split, device: torch.device
) -> dict[str, torch.Tensor]:
    """The method's tensors (Fisher diagonals, masks, ...), from the run folder if they are there."""

    def batches(side: str, samples: int) -> Iterator[Any]:
        size = min(64, samples)
        stream = split.whole(side, config, model.null_label, size)
        for step in range(samples // size):
            yield stream.batch(step).to(device)

    def make() -> dict[str, torch.Tensor]:
        made: dict[str, torch.Tensor] = method.precompute(Beforehand(model.transformer, batches))
        return made

    made = once(folder / f"{config.method.name}.safetensors", make) if "precompute" in type(method).__dict__ else {}
    return {name: tensor.to(device) for name, tensor in made.items()}


def original_samples(model: Model, sample: SampleConfig) -> Path:
    """The original model's images under this protocol, made once and kept in the cache."""
    folder = cache_folder("samples", digest(model.key(), as_mapping(sample)))
    sample_folder(model, folder, sample, model.classes, "sample original")
    return folder


def copy_samples(source: Path, target: Path, sample: SampleConfig, classes: list[int]) -> None:
    """Hard links where the file system allows it, else copies."""
    if target.is_dir():
        return
    with replacing_folder(target) as folder:
        for label in classes:
            (folder / f"{label:04d}").mkdir()
            for path in sorted((source / f"{label:04d}").glob("*.png"))[: sample.per_class]:
                copy = folder / f"{label:04d}" / path.name
                try:
                    os.link(path, copy)
                except OSError:
                    shutil.copyfile(path, copy)


def score(
    config: ResolvedConfig, model: Model, stage: Stage, forget: list[int], output: Path, original: Path
) -> dict[str, Any]:
    """results.json without its times. ``original``: the cached samples of the original model, named by their key."""
    retain = [label for label in model.classes if label not in forget]
    sample = config.sample
    protocol: dict[str, Any] = {
        "samples": {"forget": len(forget) * sample.per_class, "retain_total": len(retain) * sample.per_class},
        "sample_seed": sample.seed,
        "guidance_scale": sample.guidance_scale,
        "sampler": sample.sampler,
        "steps": sample.steps,
    }
    if stage.instrument is None:
        absent = {
            **dict.fromkeys(("fa", "fa_top1", "not_an_image", "ra", "fid", "per_class_accuracy")),
            "why": stage.why,
        }
        models = {"original": absent, "erased": absent}
    else:
        rows = stage.images.select(retain)
        reference = statistics(real_features(stage.instrument, stage.images)[rows])
        protocol |= {**describe(stage.instrument, stage.images), "reference_count": len(rows)}
        models = {}
        for side, cache in (("original", original.name), ("erased", None)):
            folder = output / "samples" / side
            reading = read_folder(stage.instrument, folder, model.classes, sample.per_class, cache)
            bootstrap = config.score.bootstrap
            models[side] = score_reading(reading, model.classes, forget, sample.per_class, reference, bootstrap)
    return {
        "version": 1,
        "complete": True,
        "config_hash": config_hash(as_mapping(config)),
        "forget": [{"index": label, "name": model.labels[label]} for label in forget],
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
