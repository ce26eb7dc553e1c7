"""Guided sampling, one seed an image, in fixed blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from . import processes
from .ahead import ahead
from .config import SampleConfig, as_mapping
from .dit import embedded_once
from .errors import UserError
from .files import replacing
from .model import NO_VAE, SCHEDULER, Model
from .precision import autocast
from .rng import image_seed
from .room import Room
from .signals import check_together, stopping

COUNTED = ("per_class", "retain_total", "retain_classes")  # of a protocol: how many are drawn, not how
DECODE_BATCH = 100
WRITERS = 2  # threads that pack image files
DECODE_PIXELS = 64 * 256 * 256  # decoded at once: the VAE's activations are some thousand bytes a pixel


def make_scheduler(sampler: str) -> Any:
    """A diffusers scheduler with every setting explicit.

    ``dpm++``: DPM-Solver++ of order 2 (Lu et al. 2022). ``ddim``: eta 0 (Song et al. 2021). ``ancestral``: DDPM's, with
    the model's learned variance (Nichol & Dhariwal 2021).
    """
    import diffusers

    if sampler == "dpm++":
        return diffusers.DPMSolverMultistepScheduler(**SCHEDULER, algorithm_type="dpmsolver++", solver_order=2)
    if sampler == "ddim":
        spacing = {"timestep_spacing": "leading"}  # DDIM steps by T // steps, whatever the grid of timesteps
        return diffusers.DDIMScheduler(**{**SCHEDULER, **spacing}, clip_sample=False, set_alpha_to_one=True)
    if sampler == "ancestral":
        return diffusers.DDPMScheduler(**SCHEDULER, clip_sample=False, variance_type="learned_range")
    raise UserError(f"unknown sampler {sampler!r}; known: dpm++, ddim, ancestral")


def check_sampler(model: Model, sampler: str) -> None:
    """Raises UserError for a sampler that needs the model's variance of a model that learned none."""
    config = model.transformer.config
    if sampler == "ancestral" and config.out_channels != 2 * config.in_channels:
        raise UserError("the ancestral sampler needs a model with learned variance; take dpm++ or ddim")


@torch.no_grad()
def sample_latents(
    model: Model,
    labels: Sequence[int],
    seeds: Sequence[int],
    guidance_scale: float = 1.5,
    steps: int = 20,
    sampler: str = "dpm++",
    precision: str = "auto",
    guidance_channels: str = "all",
) -> torch.Tensor:
    """Scaled latents n x C x h x w of these labels.

    Image i starts from one CPU draw of shape (1, C, h, w) of a generator seeded with ``seeds[i]``, and takes any
    further noise from the same generator: what DiTPipeline does with a list of generators. Guidance as in
    :func:`guided_output`. ``precision`` is the transformer's: fp32, bf16, or auto, which is bf16 on a GPU and fp32
    elsewhere. Raises UserError for a guidance scale below 1, where DiTPipeline takes none.
    """
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def draw() -> torch.Tensor:
        shape = (1, *model.latent_shape)
        return torch.cat([torch.randn(shape, generator=g) for g in generators]).to(model.device)

    return denoise(model, labels, draw(), draw, guidance_scale, steps, sampler, precision, guidance_channels)


@torch.no_grad()
def denoise(
    model: Model,
    labels: Sequence[int],
    latents: torch.Tensor,
    draw: Callable[[], torch.Tensor],
    guidance_scale: float = 1.5,
    steps: int = 20,
    sampler: str = "dpm++",
    precision: str = "auto",
    guidance_channels: str = "all",
) -> torch.Tensor:
    """As :func:`sample_latents`, from the given start noise ``latents`` (n x C x h x w).

    ``draw`` gives the noise of each further step, of the same shape; only the ancestral sampler asks for it.
    """
    if guidance_channels not in ("all", "3"):
        raise UserError(f"unknown guidance_channels {guidance_channels!r}; known: all, 3")
    if not guidance_scale >= 1:
        raise UserError(f"guidance_scale must be 1 (none) or more, not {guidance_scale}")
    check_sampler(model, sampler)
    scheduler = make_scheduler(sampler)
    scheduler.set_timesteps(steps)  # on the CPU, where the schedulers look them up: no step waits for a GPU
    channels = model.latent_shape[0]
    classes = torch.tensor(list(labels), device=model.device)
    with autocast(precision, model.device), embedded_once(model.transformer):  # all steps: weights are cast once
        for t in scheduler.timesteps:
            output = guided_output(model, latents, t, classes, guidance_scale, precision, guidance_channels)
            if sampler == "ancestral":
                latents = _ancestral_step(scheduler, output, int(t), latents, draw)
            else:
                latents = scheduler.step(output[:, :channels], t, latents, return_dict=False)[0]
    return latents


def guided_output(
    model: Model,
    latents: torch.Tensor,
    t: torch.Tensor,
    classes: torch.Tensor,
    scale: float,
    precision: str = "auto",
    guidance_channels: str = "all",
) -> torch.Tensor:
    """The model's noise prediction and variance channels at one timestep, under classifier-free guidance.

    Guidance (Ho & Salimans 2022) is eps_null + scale (eps_label - eps_null); a scale of 1 needs no null half. "all": of
    all channels of the prediction, as diffusers does; "3": of the first three, as the original DiT's code does, and the
    fourth stays the label's. The variance is the label's. n x 2C x h x w in float32.
    """
    channels = model.latent_shape[0] if guidance_channels == "all" else min(3, model.latent_shape[0])
    guided = scale != 1.0
    both = torch.cat([classes, torch.full_like(classes, model.null_label)]) if guided else classes
    inputs = torch.cat([latents, latents]) if guided else latents
    with autocast(precision, model.device):
        times = torch.full((len(inputs),), int(t), device=model.device)
        output = model.transformer(inputs, timestep=times, class_labels=both, return_dict=False)[0]
    output = output.float()
    if not guided:
        return output
    conditional, unconditional = output.chunk(2)
    eps = unconditional[:, :channels] + scale * (conditional[:, :channels] - unconditional[:, :channels])
    return torch.cat([eps, conditional[:, channels:]], dim=1)


def _ancestral_step(scheduler: Any, output: torch.Tensor, t: int, latents: torch.Tensor, draw: Any) -> torch.Tensor:
    """One DDPM step with learned variance, its noise drawn from each image's own generator."""
    previous = scheduler.previous_timestep(t)
    eps, v = output.chunk(2, dim=1)
    abar = scheduler.alphas_cumprod[t].double()
    abar_previous = (
        scheduler.alphas_cumprod[previous].double() if previous >= 0 else torch.ones((), dtype=torch.float64)
    )
    beta = 1 - abar / abar_previous
    x0 = (latents - (1 - abar).sqrt() * eps) / abar.sqrt()
    mean = (abar_previous.sqrt() * beta / (1 - abar)) * x0
    mean = mean + ((1 - beta).sqrt() * (1 - abar_previous) / (1 - abar)) * latents
    if previous < 0:
        return mean.to(latents.dtype)
    log_min = torch.log(beta * (1 - abar_previous) / (1 - abar))
    share = (v + 1) / 2
    log_variance = share * beta.log() + (1 - share) * log_min
    return (mean + torch.exp(0.5 * log_variance) * draw()).to(latents.dtype)


def latents_within(room: Room, model: Model, labels: Sequence[int], seeds: Sequence[int], *how: Any) -> torch.Tensor:
    """As :func:`sample_latents`, drawn in parts that the device's memory holds: each image has its own generator."""

    def attempt(size: int) -> torch.Tensor:
        parts = [slice(start, start + size) for start in range(0, len(labels), size)]
        return torch.cat([sample_latents(model, labels[part], seeds[part], *how) for part in parts])

    return room.fit(len(labels), attempt)


@torch.no_grad()
def decode(model: Model, latents: torch.Tensor, room: Room | None = None) -> torch.Tensor:
    """Scaled latents to images on the CPU: uint8, n x H x W x 3. ``room``: see :func:`decoding_room`."""
    if model.vae is None:
        raise UserError(NO_VAE)
    vae = model.vae

    def attempt(size: int) -> torch.Tensor:
        images = []
        for part in latents.split(size):
            pixels = vae.decode(part / vae.config.scaling_factor).sample
            pixels = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
            images.append(pixels.permute(0, 2, 3, 1).cpu())
        return torch.cat(images)

    return (room or decoding_room(model)).fit(len(latents), attempt)


def decoding_room(model: Model) -> Room:
    """How many latents the VAE decodes at once: it remembers a halving from block to block."""
    return Room("decoding", max(1, min(DECODE_BATCH, DECODE_PIXELS // model.image_size**2)))


def sample(
    model: Model,
    labels: Sequence[int],
    seeds: Sequence[int] | None = None,
    guidance_scale: float = 1.5,
    steps: int = 20,
    sampler: str = "dpm++",
    precision: str = "auto",
    guidance_channels: str = "all",
    room: Room | None = None,
    decoding: Room | None = None,
) -> np.ndarray:
    """Images of these labels, one seed each (default: 0, 1, ...): uint8, n x H x W x 3, RGB.

    ``room`` and ``decoding`` (see :func:`decoding_room`) remember from call to call how many at once the device's
    memory holds.
    Raises UserError for a label outside 0 .. num_classes (num_classes is the null label), or seeds of another number.
    """
    seeds = range(len(labels)) if seeds is None else seeds
    if len(seeds) != len(labels):
        raise UserError(f"{len(labels)} labels need as many seeds, not {len(seeds)}")
    wrong = [label for label in labels if not 0 <= int(label) <= model.num_classes]
    if wrong:
        raise UserError(f"label {wrong[0]} is not in 0 .. {model.num_classes} (the last is the null label)")
    if not len(labels):
        return np.zeros((0, model.image_size, model.image_size, 3), dtype=np.uint8)
    how = (guidance_scale, steps, sampler, precision, guidance_channels)
    return decode(model, latents_within(room or Room("sampling"), model, labels, seeds, *how), decoding).numpy()


def image_path(folder: Path, label: int, number: int) -> Path:
    return folder / f"{label:04d}" / f"{number:05d}.png"


def sample_folder(
    model: Model,
    folder: Path,
    config: SampleConfig,
    classes: Sequence[int] | Mapping[int, int],
    title: str,
    precision: str = "auto",
) -> None:
    """Fills ``folder/CCCC/IIIII.png`` with ``config.per_class`` images of each class, or as many as ``classes`` says.

    Files already there are kept. A file depends on the class, its number and its block's other images alone. Several
    processes share whole blocks, and each returns when all files are there. Raises Interrupted after a signal, when the
    blocks that were drawn are written.
    """
    room, decoding = Room("sampling"), decoding_room(model)
    how = (config.guidance_scale, config.steps, config.sampler, precision, config.guidance_channels)
    counts = classes if isinstance(classes, Mapping) else dict.fromkeys(classes, config.per_class)
    whole = blocks(counts, config.block, config.retain_total is not None)

    def left() -> list[list[tuple[int, int]]]:
        return [block for block in whole if not all(image_path(folder, *image).is_file() for image in block)]

    def drawn() -> Iterator[tuple[list[Path], np.ndarray]]:
        for block in own:
            paths = [image_path(folder, label, number) for label, number in block]
            if stopping():
                return
            seeds = [image_seed(config.seed, label, number) for label, number in block]
            yield paths, sample(model, [label for label, _ in block], seeds, *how, room=room, decoding=decoding)

    missing = processes.on_main(left)
    own = processes.dealt(missing, len)
    done = sum(counts.values()) - sum(map(len, missing))
    with tqdm(total=done + sum(map(len, own)), initial=done, desc=title, unit="image") as bar:
        for (paths, _), _ in ahead(_write_images, drawn(), WRITERS):  # files are packed while the next are drawn
            bar.update(len(paths))
    check_together()  # also waits for the others' files


def _write_images(block: tuple[list[Path], np.ndarray]) -> None:
    for path, image in zip(*block, strict=True):
        if not path.is_file():
            with replacing(path, sync=False) as temporary:
                Image.fromarray(image).save(temporary)


def blocks(counts: Mapping[int, int], size: int, across: bool) -> list[list[tuple[int, int]]]:
    """The images that are made together: ``size`` consecutive ones of one class, or ``across`` classes.

    Each is a class and a number. A thousand classes of ten images each would else be a thousand small batches.
    """
    queues = [[(label, number) for number in range(count)] for label, count in counts.items()]
    if across:
        queues = [[image for queue in queues for image in queue]]
    return [queue[start : start + size] for queue in queues for start in range(0, len(queue), size)]


def drawing(config: SampleConfig) -> dict[str, Any]:
    """Of a protocol what an image's pixels depend on: all but how many are drawn."""
    across = {"across": True} if config.retain_total is not None else {}
    return {**{key: value for key, value in as_mapping(config).items() if key not in COUNTED}, **across}
