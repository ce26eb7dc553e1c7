"""The networks of a pipeline: a diffusion transformer with one embedder shared by all blocks, and its autoencoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .compiled import is_compiled
from .config import DitRecipe, VaeRecipe
from .errors import UserError

# diffusers divides the exponents of the time features by 127, the original by 128, and diffusers' config has no field
# for it: this extra key of transformer/config.json says what the weights were trained with. Absent: diffusers' own, 1.
TIME_KEY = "downscale_freq_shift"


def time_shift(transformer: Any) -> int:
    """What is subtracted from 128 in the time features: 1 as in diffusers, 0 as in the original DiT."""
    return int(transformer.config.get(TIME_KEY, 1))


def tie_embedders(transformer: Any) -> None:
    """Makes all blocks share block 0's embedder, as the original DiT does, and stops its own label dropout.

    diffusers gives every block an embedder and draws a label drop in each; training such a model is another algorithm.
    Raises UserError if the copies differ, for then one cannot stand for all.
    """
    first = transformer.transformer_blocks[0].norm1.emb
    for number, block in enumerate(transformer.transformer_blocks):
        if block.norm1.emb is first:
            continue
        for (name, mine), other in zip(first.named_parameters(), block.norm1.emb.parameters(), strict=True):
            if not torch.equal(mine, other):
                raise UserError(
                    f"the embedders of this checkpoint have drifted apart (block {number}, {name}): it was fine-tuned "
                    "with one embedder a block, and no single label row exists to forget"
                )
    share_embedder(transformer)


def share_embedder(transformer: Any) -> None:
    """Puts block 0's embedder into all blocks, whatever theirs hold, with the time features of the config."""
    first = transformer.transformer_blocks[0].norm1.emb
    for block in transformer.transformer_blocks[1:]:
        block.norm1.emb = first
    first.class_embedder.dropout_prob = 0.0
    first.time_proj.downscale_freq_shift = time_shift(transformer)


@contextmanager
def embedded_once(transformer: Any) -> Iterator[None]:
    """Inside, the shared embedder runs once a forward pass and not once a block, with the same result.

    For drawing alone: under gradients its weights' would be added up in another order. Compiled blocks hold its code.
    """
    embedder = transformer.transformer_blocks[0].norm1.emb
    shared = all(block.norm1.emb is embedder for block in transformer.transformer_blocks)
    if not shared or is_compiled(transformer):
        yield
        return
    compute, held = embedder.forward, [(None, None, None, None)]

    def forward(timestep: Any, class_labels: Any, hidden_dtype: Any = None) -> Any:
        times, labels, dtype, known = held[0]
        if times is timestep and labels is class_labels and dtype == hidden_dtype:
            return known
        held[0] = (timestep, class_labels, hidden_dtype, compute(timestep, class_labels, hidden_dtype))
        return held[0][-1]

    embedder.forward = forward
    try:
        yield
    finally:
        del embedder.forward


def untied_copy(transformer: Any) -> Any:
    """A copy with one embedder a block, as diffusers stores it."""
    result = copy.deepcopy(transformer).cpu()
    for block in result.transformer_blocks[1:]:
        block.norm1.emb = copy.deepcopy(block.norm1.emb)
    return result


def dit_config(recipe: DitRecipe, latent_channels: int, latent_size: int) -> dict[str, Any]:
    """diffusers' config of a DiT with learned variance."""
    return {
        "num_attention_heads": recipe.heads,
        "attention_head_dim": recipe.width // recipe.heads,
        "in_channels": latent_channels,
        "out_channels": 2 * latent_channels,
        "num_layers": recipe.layers,
        "sample_size": latent_size,
        "patch_size": recipe.patch,
        "num_embeds_ada_norm": recipe.label_slots,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "activation_fn": "gelu-approximate",
    }


def build_transformer(config: Mapping[str, Any]) -> Any:
    """A tied DiT of this config, which may hold ``TIME_KEY``; its weights are as diffusers leaves them."""
    from diffusers import DiTTransformer2DModel

    extra = {key: value for key, value in config.items() if key == TIME_KEY}
    transformer: Any = DiTTransformer2DModel(**{key: value for key, value in config.items() if key not in extra})
    transformer.register_to_config(**extra)
    share_embedder(transformer)
    return transformer


def new_transformer(recipe: DitRecipe, latent_channels: int, latent_size: int, seed: int) -> Any:
    """A DiT with learned variance, initialised as the paper does (adaLN-zero) and tied."""
    return initialised(dit_config(recipe, latent_channels, latent_size), seed)


def initialised(config: Mapping[str, Any], seed: int) -> Any:
    """An untrained DiT of this config (Peebles & Xie 2023, appendix A)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = build_transformer(config)
        first = transformer.transformer_blocks[0].norm1.emb
        for module in transformer.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(first.class_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(first.timestep_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(first.timestep_embedder.linear_2.weight, std=0.02)
        adaln = [block.norm1.linear for block in transformer.transformer_blocks]
        for layer in [*adaln, transformer.proj_out_1, transformer.proj_out_2]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return transformer.eval()


def new_like(transformer: Any, seed: int) -> Any:
    """An untrained DiT of the same shape."""
    fields = {*dit_config(DitRecipe(), 4, 8), TIME_KEY}
    config = getattr(transformer, "module", transformer).config
    return initialised({key: value for key, value in config.items() if key in fields}, seed)


def new_vae(recipe: VaeRecipe, image_size: int, seed: int) -> Any:
    """An untrained autoencoder."""
    from diffusers import AutoencoderKL

    levels = len(recipe.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=recipe.channels,
            layers_per_block=recipe.layers,
            latent_channels=recipe.latent_channels,
            norm_num_groups=recipe.groups,
            sample_size=image_size,
            mid_block_add_attention=False,
        )
