"""The model, data and settings that the sections share, at one of three sizes."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from erase import RunConfig, load_model
from erase.config import DitRecipe, ResolvedConfig, VaeRecipe
from erase.data.images import ImageSet, digits
from erase.data.split import Split, encode_split
from erase.diffusion import Schedule
from erase.methods import Method, find_method
from erase.model import Model, new_transformer, new_vae, weights_key
from erase.optim import make_policy
from erase.precision import restore_forward
from erase.presets import resolve
from erase.task import DiffusionTask
from erase.trainer import Trainer, make_accelerator

FORGET = 0  # the class that is forgotten


@dataclass(frozen=True)
class Size:
    """How much is measured. ``words``: settings over the digits presets."""

    name: str
    repeats: int
    rounds: int  # of steps in a repeat
    images: int  # for a Fisher diagonal, in a repeat
    fisher_samples: int  # end to end
    steps: int  # end to end
    batches: tuple[int, ...]  # sampled at once
    files: int  # sampled to files
    words: dict[str, Any]


SIZES = {
    "digits": Size("the digits model", 7, 3, 128, 1024, 100, (1, 4, 16, 64), 200, {}),
    "tiny": Size("a tiny model", 1, 1, 4, 4, 2, (1, 2), 3, {"batch_size": 4}),
    "xl": Size("DiT-XL/2 at 256, random weights", 5, 3, 64, 256, 100, (1, 8, 64), 64, {"batch_size": 32, "lr": 1e-6}),
}


class Bench:
    """One size on one device. ``work``: a folder for caches and images, which starts empty. ``part``: the file in
    which a section of many minutes keeps what it has measured, to continue from."""

    def __init__(
        self, size: str, device: str, work: Path, repeats: int | None = None, part: Path | None = None
    ) -> None:
        self.kind, self.device, self.work, self.part = size, torch.device(device), work, part
        self.size = dataclasses.replace(SIZES[size], repeats=repeats or SIZES[size].repeats)
        os.environ["ERASE_CACHE"] = str(work / "cache")  # cold, and nobody's

    @cached_property
    def accelerator(self) -> Accelerator:
        return make_accelerator(self.config("sfron", "dual").runtime)

    @cached_property
    def model(self) -> Model:
        if self.kind == "digits":
            return load_model("digits").to(self.device)
        with torch.device(self.device):
            transformer, vae = _tiny() if self.kind == "tiny" else _xl()
        generator = torch.Generator(self.device).manual_seed(1)
        with torch.no_grad():
            for weight in transformer.parameters():  # nowhere zero, for zeros multiply faster
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator, device=self.device))
        labels = {label: str(label) for label in range(min(10, transformer.config.num_embeds_ada_norm))}
        return Model(transformer.to(self.device), vae.to(self.device).eval(), labels)

    @cached_property
    def images(self) -> ImageSet:
        if self.kind == "digits":
            return digits()
        count, side = 40 if self.kind == "tiny" else 640, self.model.image_size
        pixels = np.random.default_rng(0).integers(256, size=(count, 3, side, side), dtype=np.uint8)
        labels = np.arange(count) % len(self.model.classes)
        names = {label: str(label) for label in self.model.classes}
        return ImageSet(names, labels, np.zeros(count, dtype=bool), side, "random", arrays=torch.from_numpy(pixels))

    @cached_property
    def split(self) -> Split:
        return self.encoded()

    def encoded(self) -> Split:
        """The latents of all training images, encoded or from the cache."""
        model = self.model
        vae = model.vae
        return encode_split(vae, weights_key(vae), self.images, model.classes, [FORGET], model.null_label, False)

    def config(self, method: str, policy: str, options: dict[str, Any] | None = None, **unlearn: Any) -> ResolvedConfig:
        """The digits preset of this method, with this size's settings, ``options`` of the method and others."""
        side = dict(self.size.words)
        runtime = {"device": str(self.device), **({"threads": 1} if self.device.type == "cpu" else {})}
        request = RunConfig(
            forget=[str(FORGET)], preset=f"digits/{method}-{policy}", method={"name": method, **(options or {})},
            optimizer=policy, unlearn={**unlearn, "forget": side, "retain": side}, runtime=runtime,
        )  # fmt: skip
        return resolve(request)

    @contextmanager
    def task(self) -> Iterator[DiffusionTask]:
        """A copy of the transformer in the arithmetic of a run."""
        transformer = copy.deepcopy(self.model.transformer)
        module = self.accelerator.prepare_model(transformer)
        try:
            yield DiffusionTask(module, Schedule(), self.model.classes, [FORGET], self.model.null_label)
        finally:
            restore_forward(transformer)

    def trainer(self, config: ResolvedConfig, task: DiffusionTask, method: Method | None = None) -> Trainer:
        """The product's loop over the task's module. A method's masks select one half of the weights at random."""
        module = task.module
        if method is None:
            method = find_method(config.method.name)(config.method, task)
            method.start(_random_masks(module, config.method.name), dict(module.named_parameters()))
        sets = method.training_sets(self.split.sets, 0)
        split = dataclasses.replace(self.split, sets=sets)
        streams = {side: split.training(side, config) for side in ("forget", "retain")}
        policy = make_policy(config.optimizer, module.parameters())
        return Trainer(
            self.accelerator, module, method, policy, streams, config.unlearn, self.work / "state.safetensors", "bench"
        )


def _random_masks(module: torch.nn.Module, method: str) -> dict[str, torch.Tensor]:
    weights = dict(module.named_parameters())
    if method == "sfron":
        return {f"{side}/{name}": torch.rand_like(p) for name, p in weights.items() for side in ("forget", "retain")}
    return {name: torch.rand_like(p) > 0.5 for name, p in weights.items()} if method == "salun" else {}


def _tiny() -> tuple[Any, Any]:
    recipe = DitRecipe(layers=2, width=32, heads=2, label_slots=1000)  # DiTPipeline knows no other null label
    return new_transformer(recipe, 4, 8, seed=0), new_vae(VaeRecipe(channels=(8, 8), groups=4), 16, seed=0)


def _xl() -> tuple[Any, Any]:
    from diffusers import AutoencoderKL

    channels = (128, 256, 512, 512)
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels, layers_per_block=2, sample_size=256,
    )  # fmt: skip
    return new_transformer(DitRecipe(layers=28, width=1152, heads=16), 4, 32, seed=0), vae
