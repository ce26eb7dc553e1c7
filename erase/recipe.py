"""What a pretraining recipe must fulfil for its networks to be built at all, checked before the first step."""

from __future__ import annotations

from collections.abc import Sequence

from .classifier import GROUPS, NEIGHBOURS
from .config import PretrainConfig
from .data.images import ImageSet
from .errors import Faults, UserError
from .model import find_source
from .packs import read_vae


def check_recipe(config: PretrainConfig) -> None:
    """Raises UserError naming every key that does not fit the others."""
    levels = len(config.vae.channels)
    if config.instruments is not None:
        levels = len(read_vae(find_source(config.instruments) / "vae").get("block_out_channels", [64]))
    faults = Faults()
    faults.found += recipe_faults(config, levels)
    faults.tell()


def recipe_faults(config: PretrainConfig, levels: int | None) -> list[str]:
    """What does not fit together. ``levels``: of the VAE, or None where another pack's is not looked at yet."""
    faults, own, dit = [], config.instruments is None, config.dit
    if own and (not config.vae.channels or any(c < 1 or c % config.vae.groups for c in config.vae.channels)):
        faults.append(f"vae.channels must be multiples of vae.groups ({config.vae.groups})")
    if own and config.classifier.width % GROUPS:
        faults.append(f"classifier.width must be a multiple of {GROUPS}")
    if dit.width % dit.heads:
        faults.append(f"dit.width must be a multiple of dit.heads ({dit.heads})")
    if dit.width % 4:
        faults.append("dit.width must be a multiple of 4, for sines and cosines of two axes")
    pixels = 1 if levels is None else 2 ** max(levels - 1, 0) * dit.patch
    if config.image_size % pixels:
        faults.append(f"image_size must be a multiple of {pixels}, the pixels under a patch of the VAE's latents")
    return faults


def check_data(config: PretrainConfig, images: ImageSet, excluded: Sequence[int]) -> None:
    """Raises UserError for a class id beyond the label slots, or for too few images."""
    if len(set(excluded)) >= len(images.names):
        raise UserError("all classes are excluded; the DiT needs at least one")
    largest = max(images.names)
    if largest >= config.dit.label_slots:
        raise UserError(
            f"dit.label_slots ({config.dit.label_slots}) must be above the largest class id, {largest} "
            f"({images.names[largest]})"
        )
    held_out, seen = int(images.held_out.sum()), len(images.select([c for c in images.names if c not in excluded]))
    if len(images) - held_out < NEIGHBOURS or held_out < 2 or seen < 4:
        raise UserError(f"{len(images)} images are too few; give some tens of each class")
