"""The main flow of ``erase run``: load, preflight, split, precompute, unlearn, sample, score, save."""

from __future__ import annotations

import importlib.metadata
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from tqdm import tqdm

from .ahead import ahead
from .compiled import compiled
from .config import ResolvedConfig, RunConfig, SampleConfig, as_mapping, changes
from .data.latents import Batch, LatentSet, fixed_latents
from .data.split import Split, encode_split
from .diffusion import Schedule
from .dit import time_shift
from .errors import UserError
from .faults import under_way
from .files import (
    cache_folder,
    check_writable,
    digest,
    link,
    once,
    read_tensors,
    replacing_folder,
    write_json,
    write_tensors,
    write_text,
)  # fmt: skip
from .labels import find_forget
from .methods import Beforehand, Method, find_method
from .metrics.fid import statistics
from .model import NO_VAE, ORIGINAL_NOTE, Model, load_model, save_model, weights_key
from .optim import make_policy
from .packs import read_results
from .precision import chosen, restore_forward
from .presets import config_hash, family_of, load_yaml, output_folder, resolve, with_classes
from .report.card import model_card
from .report.grid import draw_grid, grid_classes
from .rng import image_seed
from .saliency import FISHER_BATCH
from .sampling import drawing, image_path, sample_folder, sample_latents
from .scoring import describe, folder_features, read_folder, score_reading
from .snapshots import snapshot_folder, take_snapshot
from .stage import Stage, extract, preflight, raise_gate
from .task import DiffusionTask
from .trainer import Trainer, make_accelerator

NEAREST = 10  # other classes that results.json names, nearest first


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
    check_folder(output, config)
    if (output / "results.json").is_file():
        return read_results(output, whole=True), output

    stage = preflight(config, model)
    claim_folder(output, config, space_needed(model, stage.counts))
    seconds: dict[str, float] = {}
    before = weights_key(model.transformer)
    accelerator = make_accelerator(config.runtime, output)
    model.to(accelerator.device)
    if config.runtime.tracker:
        accelerator.init_trackers("erase")

    with timed(seconds, "score"):
        stage = raise_gate(stage, accelerator.device)
        if stage.instrument is not None:
            stage.real_features()  # into the cache: an image that cannot be read is told before the first step

    with timed(seconds, "sample"):
        runtime = config.runtime
        original = original_samples(model, config.sample, runtime.precision, stage.counts, runtime.compile)

    with timed(seconds, "precompute"):
        null, flip = model.null_label, config.data.flip
        vae, count = model.vae, config.data.retain_images
        split = encode_split(vae, weights_key(vae), stage.images, model.classes, forget, null, flip, count)
        key = digest(config_hash(config), model.key(), split.key)
        method = prepare(config, model, split, forget, accelerator, output)

    with timed(seconds, "unlearn"):
        unlearn(config, model, method, split, accelerator, output, key)
    restore_forward(model.transformer)

    with timed(seconds, "sample"):
        drop_stale_samples(output / "samples", digest(original.name, weights_key(model.transformer)))
        copy_samples(original, output / "samples" / "original", stage.counts)
        folder, precision = output / "samples" / "erased", config.runtime.precision
        with compiled(model.transformer, config.runtime.compile):
            sample_folder(model, folder, config.sample, stage.counts, "sample erased", precision)

    with timed(seconds, "score"):
        results = score(config, model, stage, forget, output, original)

    draw(config, model, stage, forget, output)
    about = model.pack or {"version": 1, "family": family_of(config.model.source), "classes": model.classes}
    by = {key: results[key] for key in ("method", "optimizer", "seed", "config_hash")}
    origin = {key: value for key, value in about.get("provenance", {}).items() if key != "scores"}
    forgotten = [*about.get("forgotten", []), *({**entry, **by} for entry in results["forget"])]
    model.pack = {**about, "forgotten": forgotten, "provenance": origin}
    note = "" if time_shift(model.transformer) else ORIGINAL_NOTE
    model.card = model_card(results, weights_key(model.transformer), before, about.get("forgotten", []), note)
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
    with under_way():
        yield
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - begin


def check_folder(output: Path, config: ResolvedConfig) -> None:
    """Raises UserError if ``output`` holds a run of another config, naming the keys that differ, or something else."""
    path = output / "config.yaml"
    try:
        if path.is_file():
            different = [key for key in changes(load_yaml(path), config) if not key.startswith("runtime")]
            if different:
                keys = ", ".join(different)
                raise UserError(f"{output} holds a run of another config; it differs in {keys}; give another --output")
        elif output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"{output} is there already and holds no run; give another --output")
    except OSError as error:
        raise UserError(f"cannot read the output folder {output}: {error.strerror}") from None


def claim_folder(output: Path, config: ResolvedConfig, need: int) -> None:
    """Makes the run folder with its config.yaml. Raises UserError if it cannot, or if under ``need`` bytes are free."""
    check_writable(cache_folder(), "the cache folder")
    try:
        write_text(output / "config.yaml", yaml.safe_dump(as_mapping(config), sort_keys=False, allow_unicode=True))
        free = shutil.disk_usage(output).free
    except OSError as error:
        raise UserError(f"cannot write the output folder {output}: {error.strerror}") from None
    if free < need:
        raise UserError(f"{output} has {free >> 20} MiB free and the run needs about {need >> 20}; make space")


def space_needed(model: Model, counts: Mapping[int, int]) -> int:
    """Bytes of a run, roughly: weights, two moments for each optimizer, Fisher diagonals, the pack, two sample sets."""
    weights = sum(p.numel() * p.element_size() for p in model.transformer.parameters())
    images = 2 * sum(counts.values()) * model.image_size**2 * 3
    return 9 * weights + images


def prepare(
    config: ResolvedConfig,
    model: Model,
    split: Split,
    forget: list[int],
    accelerator: Accelerator,
    output: Path,
) -> Method:
    """The method, with its tensors (Fisher diagonals, masks, ...) computed or read back.

    They are kept in the cache, for runs that differ in nothing that matters to them, and in the run folder.
    """
    module = accelerator.prepare_model(model.transformer)
    task = DiffusionTask(module, Schedule(), model.classes, forget, model.null_label)
    method = find_method(config.method.name)(config.method, task)
    seed = 0 if method.per_model else config.seed
    part = min(config.runtime.micro_batch or FISHER_BATCH, FISHER_BATCH)

    def batches(source: str | LatentSet, samples: int) -> Iterator[Batch]:
        size = min(FISHER_BATCH, samples)
        if isinstance(source, str):
            stream = split.beforehand(source, seed, size)
        else:
            stream = split.stream(source, "precompute", seed, size)
        for _, batch in ahead(stream.batch, range(math.ceil(samples / size)), threads=1):
            yield from batch.to(accelerator.device).parts(part)

    def make() -> dict[str, torch.Tensor]:
        replay = partial(replay_set, model, config.sample, precision=config.runtime.precision)
        return method.precompute(Beforehand(model.transformer, batches, replay, part))

    tensors: dict[str, torch.Tensor] = {}
    if type(method).precompute is not Method.precompute:
        options = {name: getattr(config.method, name) for name in method.precomputed_from}
        shaped = [] if method.per_model else [sorted(forget), seed]
        protocol, data = (drawing(config.sample), model.classes) if method.per_model else ({}, split.key)
        how = arithmetic(model, config.runtime.precision)
        how += [f"parts of {part}"] if part < FISHER_BATCH else []
        key = digest(method.name, options, shaped, protocol, model.key(), data, *how)
        kept = cache_folder("precomputed") / f"{method.name}-{key}.safetensors"
        tensors = once(kept, make)
        link(kept, output / "precomputed" / f"{method.name}-{key[:8]}.safetensors")
    tensors = {name: tensor.to(accelerator.device) for name, tensor in tensors.items()}
    method.start(tensors, dict(model.transformer.named_parameters()), config.seed)
    return method


def replay_set(model: Model, sample: SampleConfig, per_class: int, precision: str = "auto") -> LatentSet:
    """Latents that the model draws of each of its classes, from seeds that no evaluation uses."""
    if model.vae is None:
        raise UserError(NO_VAE)
    labels = np.repeat(np.array(model.classes), per_class)
    seeds = [image_seed(sample.seed, label, -1 - number) for label in model.classes for number in range(per_class)]
    parts = []
    with tqdm(total=len(labels), desc="sample replay", unit="image") as bar:
        for start in range(0, len(labels), sample.block):
            part = slice(start, start + sample.block)
            how = (sample.guidance_scale, sample.steps, sample.sampler, precision, sample.guidance_channels)
            parts.append(sample_latents(model, labels[part].tolist(), seeds[part], *how).cpu())
            bar.update(len(parts[-1]))
    return fixed_latents(torch.cat(parts), labels, float(model.vae.config.scaling_factor))


def unlearn(
    config: ResolvedConfig, model: Model, method: Method, split: Split, accelerator: Accelerator, output: Path, key: str
) -> None:
    """Trains the transformer in place; or takes the weights that the same training left in the cache."""
    how = arithmetic(model, config.runtime.precision, config.runtime.compile)
    kept = cache_folder("weights") / f"{method.name}-{digest(key, *how)}.safetensors"
    if method.keeps_weights and kept.is_file():
        with torch.no_grad():
            for name, value in read_tensors(kept).items():
                model.transformer.get_parameter(name).copy_(value)
        return
    split = replace(split, sets=method.training_sets(split.sets, config.seed))
    trainer = Trainer(
        accelerator,
        model.transformer,
        method,
        make_policy(config.optimizer, model.transformer.parameters()),
        {side: split.training(side, config) for side in ("forget", "retain")},
        config.unlearn,
        output / "state" / "trainer.safetensors",
        key,
        output / "metrics.jsonl",
        config.runtime.save_every,
        config.unlearn.average,
        config.runtime.micro_batch,
        partial(watch, config, model, output),
    )
    watch(config, model, output, 0)
    if config.runtime.checkpointing:
        model.transformer.enable_gradient_checkpointing()
    with compiled(model.transformer, config.runtime.compile):
        trainer.run()
    model.transformer.disable_gradient_checkpointing()
    trainer.take_average()
    if method.keeps_weights:
        write_tensors(kept, dict(model.transformer.named_parameters()))


def watch(config: ResolvedConfig, model: Model, output: Path, step: int) -> None:
    """A snapshot before the first step and every ``runtime.snapshot_every`` steps."""
    every = config.runtime.snapshot_every
    if every is not None and step % every == 0 and not snapshot_folder(output, step).is_dir():
        forget = [int(label) for label in config.forget]
        other = next(label for label in model.classes if label not in forget)
        take_snapshot(model, config, [*forget, other], output, step)


def draw(config: ResolvedConfig, model: Model, stage: Stage, forget: list[int], output: Path) -> None:
    """grid.png."""
    names = ", ".join(model.labels[label] for label in forget)
    title = f"erase: forget {names}  ({config.method.name}, {config.optimizer.policy})"
    shown = grid_classes(list(stage.counts), forget, stage.nearest(forget))
    draw_grid(output / "samples", output / "grid.png", model.labels, shown, forget, title)


def original_samples(
    model: Model,
    sample: SampleConfig,
    precision: str = "auto",
    counts: Mapping[int, int] | None = None,
    compile: bool = False,
) -> Path:
    """The original model's images under this protocol, made once and kept in the cache.

    ``counts``: how many of each class; default: ``per_class`` of all.
    """
    counts = dict.fromkeys(model.classes, sample.per_class) if counts is None else counts
    how = arithmetic(model, precision, compile)
    folder = cache_folder("samples", digest(model.key(), list(counts.items()), *how, drawing(sample)))
    with compiled(model.transformer, compile):
        sample_folder(model, folder, sample, counts, "sample original", precision)
    return folder


def arithmetic(model: Model, precision: str, compile: bool = False) -> list[str]:
    """What rounds differently, and so has places of its own in the cache."""
    return [model.device.type, chosen(precision, model.device), *(["compiled"] if compile else [])]


def drop_stale_samples(folder: Path, key: str) -> None:
    """Removes images of other weights, for instance of a model that was made anew between a stop and its resume."""
    mark = folder / "key"
    if folder.is_dir() and not (mark.is_file() and mark.read_text(encoding="utf-8") == key):
        shutil.rmtree(folder)
    write_text(mark, key)


def copy_samples(source: Path, target: Path, counts: Mapping[int, int]) -> None:
    """Hard links where the file system allows it, else copies."""
    if target.is_dir():
        return
    with replacing_folder(target) as folder:
        for label, count in counts.items():
            (folder / f"{label:04d}").mkdir()
            for number in range(count):
                link(image_path(source, label, number), image_path(folder, label, number))


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
        absent = {
            **dict.fromkeys(("fa", "fa_top1", "not_an_image", "ra", "fid", "per_class_accuracy")),
            "why": stage.why,
        }
        models = {"original": absent, "erased": absent}
        protocol |= dict.fromkeys(("classifier", "gate", "extractor", "reference", "reference_count"))
    else:
        features = stage.real_features()
        reference = statistics(features)
        protocol |= {**describe(stage.instrument, stage.reference_key()), "reference_count": len(features)}
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
