"""Floating-point operations of a model, counted from its architecture: two a multiplication with its addition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

BACKWARD = 2  # a backward pass costs twice its forward pass: gradients of inputs and of weights
TIME_FEATURES = 256


def forward_flops(transformer: Mapping[str, Any]) -> int:
    """Of matrix products in one forward pass of one image. ``transformer`` is a DiT's config.json."""
    width = int(transformer["num_attention_heads"]) * int(transformer["attention_head_dim"])
    layers, patch, channels = (int(transformer[name]) for name in ("num_layers", "patch_size", "in_channels"))
    tokens = (int(transformer["sample_size"]) // patch) ** 2
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width  # queries, keys, values, output; products
    mlp = 2 * tokens * width * 4 * width
    modulation = width * 6 * width
    embedder = TIME_FEATURES * width + width * width  # diffusers runs it in every block and once more at the end
    patches = tokens * patch * patch * width * (channels + int(transformer.get("out_channels") or channels))
    last = width * 2 * width
    return 2 * (layers * (attention + mlp + modulation) + (layers + 1) * embedder + patches + last)


def vae_flops(vae: Any, latent_size: int) -> dict[str, int]:
    """Of one image: what ``decode`` and ``encode`` cost, counted on tensors without content."""
    from torch.utils.flop_counter import FlopCounterMode

    config = vae.config
    pixels = latent_size * 2 ** (len(config.block_out_channels) - 1)
    with torch.device("meta"), torch.no_grad():
        empty = type(vae).from_config(config)
        inputs = {
            "decode": torch.zeros(1, config.latent_channels, latent_size, latent_size),
            "encode": torch.zeros(1, 3, pixels, pixels),
        }
        counts = {}
        for name, value in inputs.items():
            with FlopCounterMode(display=False) as counter:
                getattr(empty, name)(value)
            counts[name] = int(counter.get_total_flops())
    return counts
