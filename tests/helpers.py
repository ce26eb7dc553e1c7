"""Small things that several test files build."""

import numpy as np
import torch
from PIL import Image

from erase.config import DitRecipe, VaeRecipe
from erase.data.images import ImageSet
from erase.data.latents import Batch, LatentStream, Moments
from erase.model import Model, new_transformer, new_vae

CHANNELS, LATENT, PIXELS = 4, 8, 16


def perturb(module, seed=1, scale=0.1):
    """Moves every parameter, so that nothing that starts at zero (adaLN-zero) hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def fresh_transformer(label_slots=12, layers=2, seed=0):
    recipe = DitRecipe(layers=layers, width=32, heads=2, label_slots=label_slots)
    return new_transformer(recipe, CHANNELS, LATENT, seed)


def make_transformer(label_slots=12, layers=2, seed=0):
    return perturb(fresh_transformer(label_slots, layers, seed), seed + 1)


def make_vae(seed=0):
    return new_vae(VaeRecipe(channels=(8, 8), groups=4), PIXELS, seed).eval()


def make_model(label_slots=12, classes=(0, 1, 2), pack=None):
    return Model(make_transformer(label_slots), make_vae(), {label: f"name {label}" for label in classes}, pack)


def make_batch(n=6, seed=0, label_slots=12):
    """Latents, noise, timesteps from 0 to 999 and labels with repeats."""
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn((2, n, CHANNELS, LATENT, LATENT), generator=generator)
    t = torch.randint(1000, (n,), generator=generator)
    t[0] = 0
    labels = torch.randint(min(4, label_slots), (n,), generator=generator)
    return Batch(x0, noise, t, labels, labels, torch.arange(n), torch.rand(n, generator=generator).double())


def make_stream(rows=10, seed=0, name="retain", size=4, null=12, dropout=0.0, std=1.0):
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn((rows, CHANNELS, LATENT, LATENT), generator=generator)
    moments = Moments(mean, torch.full_like(mean, std), 0.5)
    return LatentStream(moments, np.arange(rows), np.arange(rows) % 3, seed, name, size, null, dropout)


def make_images(n=12, size=PIXELS, classes=3, seed=0):
    """Random images in memory; every fourth is held out."""
    pixels = np.random.default_rng(seed).integers(256, size=(n, 3, size, size), dtype=np.uint8)
    labels = np.arange(n) % classes
    names = {label: str(label) for label in range(classes)}
    return ImageSet(names, labels, np.arange(n) % 4 == 0, size, f"random-{seed}", arrays=torch.from_numpy(pixels))


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


def weights_of(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def same(first, second):
    """Whether two dicts of tensors are bit-identical."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
