"""What a method computes before its first step, kept for runs that differ in nothing that matters to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from . import processes
from .ahead import ahead
from .config import ResolvedConfig, SampleConfig
from .data.latents import Batch, LatentSet, fixed_latents
from .data.split import Split
from .diffusion import Schedule
from .errors import UserError
from .files import cache_folder, digest, link, once
from .methods import Beforehand, Method, find_method
from .model import NO_VAE, Model
from .precision import arithmetic
from .rng import image_seed
from .room import Room
from .saliency import FISHER_BATCH
from .sampling import drawing, latents_within
from .signals import check
from .steplog import BadNumberError
from .task import DiffusionTask


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
    module = accelerator.prepare_model(model.transformer, evaluation_mode=True)  # processes sum gradients on their own
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
        tensors = method.precompute(Beforehand(model.transformer, batches, replay, part))
        bad = [name for name, value in tensors.items() if not value.isfinite().all()]
        if bad:
            raise BadNumberError(
                f"what {method.name} computes beforehand is not finite ({bad[0]}), and was not kept; try "
                "runtime.precision=fp32, or another model if its weights are damaged"
            )
        return tensors

    tensors: dict[str, torch.Tensor] = {}
    if type(method).precompute is not Method.precompute:
        options = {name: getattr(config.method, name) for name in method.precomputed_from}
        shaped = [] if method.per_model else [sorted(forget), seed]
        protocol, data = (drawing(config.sample), model.classes) if method.per_model else ({}, split.key)
        how = arithmetic(model.device, config.runtime.precision)
        how += [f"parts of {part}"] if part < FISHER_BATCH else []
        key = digest(method.name, options, shaped, protocol, model.key(), data, *how)
        kept = cache_folder("precomputed") / f"{method.name}-{key}.safetensors"
        own = output / "precomputed" / f"{method.name}-{key}.safetensors"
        if processes.is_main() and own.is_file() and not kept.is_file():
            link(own, kept)  # the cache was cleared since this run began
        tensors = once(kept, make)
        processes.on_main(lambda: link(kept, own))
    tensors = {name: tensor.to(accelerator.device) for name, tensor in tensors.items()}
    method.start(tensors, dict(model.transformer.named_parameters()), config.seed)
    return method


def replay_set(model: Model, sample: SampleConfig, per_class: int, precision: str = "auto") -> LatentSet:
    """Latents that the model draws of each of its classes, from seeds that no evaluation uses."""
    if model.vae is None:
        raise UserError(NO_VAE)
    labels = np.repeat(np.array(model.classes), per_class)
    seeds = [image_seed(sample.seed, label, -1 - number) for label in model.classes for number in range(per_class)]
    how = (sample.guidance_scale, sample.steps, sample.sampler, precision, sample.guidance_channels)
    room = Room("sampling")

    def draw(parts: Sequence[range]) -> dict[str, torch.Tensor]:
        drawn = []
        with tqdm(total=sum(map(len, parts)), desc="sample replay", unit="image") as bar:
            for part in parts:
                rows = slice(part.start, part.stop)
                drawn.append(latents_within(room, model, labels[rows].tolist(), seeds[rows], *how).cpu())
                check()
                bar.update(len(part))
        return {"latents": torch.cat(drawn)}

    latents = processes.by_parts(draw, len(labels), sample.block)["latents"]
    return fixed_latents(latents, labels, float(model.vae.config.scaling_factor))
