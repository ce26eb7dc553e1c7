"""The original DiT's checkpoints: one file of tensors under other names, without head count or VAE."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import DitRecipe
from .dit import TIME_KEY, build_transformer, dit_config
from .errors import UserError
from .files import read_tensors
from .untrusted import read_pickled

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the widths S, B, L and XL (Peebles & Xie 2023, Table 1)
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an original checkpoint by their original names, mapped from the file where it allows that.

    Of a training checkpoint the averaged weights ("ema"), else the trained ones ("model"). Nothing but tensors and
    plain values is unpickled. Raises UserError if the file holds anything else, is damaged, or holds no DiT.
    """
    safe = path.suffix == ".safetensors"
    content: Any = read_tensors(path) if safe else read_pickled(path, [argparse.Namespace])
    for key in ("ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = dict(content) if isinstance(content, Mapping) else {}
    for prefix in PREFIXES:
        if tensors and all(str(name).startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if not {"x_embedder.proj.weight", "y_embedder.embedding_table.weight"} <= tensors.keys():
        raise UserError(f"{path} holds no DiT in the original layout: x_embedder and y_embedder are missing")
    if not all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in tensors.values()):
        raise UserError(f"{path} holds something else than tensors of floating-point numbers among its weights")
    return tensors


def config_of(tensors: Mapping[str, torch.Tensor], num_heads: int | None = None) -> dict[str, Any]:
    """diffusers' config of an original checkpoint, with the original's norm epsilon and time features.

    The head count leaves no trace in the weights: it is ``num_heads``, else the published one of the width. Raises
    UserError where it is needed, or if the tensors fit no DiT.
    """
    try:
        width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
        places, rows = tensors["pos_embed"].shape[1], len(tensors["y_embedder.embedding_table.weight"])
        out = len(tensors["final_layer.linear.bias"]) // patch**2
        hidden = len(tensors["blocks.0.mlp.fc1.bias"])
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"the checkpoint fits no DiT: {' '.join(str(error).split())}") from None
    if hidden != 4 * width or math.isqrt(places) ** 2 != places:
        raise UserError(f"the checkpoint fits no DiT: MLPs of {hidden} for a width of {width}, {places} places")
    heads = num_heads or HEADS.get(width)
    if heads is None:
        raise UserError(
            f"a width of {width} is none of S, B, L, XL; give its head count with model.num_heads=N "
            "(erase convert: --num-heads N)"
        )
    if width % heads:
        raise UserError(f"num_heads={heads} does not divide the width of {width}")
    depth = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name)))
    recipe = DitRecipe(layers=depth, width=width, heads=heads, patch=patch, label_slots=rows - 1)
    config = dit_config(recipe, channels, patch * math.isqrt(places))
    return {**config, "out_channels": out, TIME_KEY: 0}


def from_original(tensors: Mapping[str, torch.Tensor], num_heads: int | None = None) -> Any:
    """A tied transformer in float32 that computes what the original code computes with these weights.

    Raises UserError as :func:`config_of`, or for weights that are missing, left over, or of another shape.
    """
    config = config_of(tensors, num_heads)
    with torch.random.fork_rng(devices=[]):  # its weights, all to be replaced, are drawn
        transformer = build_transformer(config)
    left = {name: value for name, value in tensors.items() if name != "pos_embed"}
    with torch.no_grad():
        for name, parts in weight_map(transformer):
            stacked = left.pop(name, None)
            rows = [len(part) for part in parts]
            if stacked is None or stacked.shape != (sum(rows), *parts[0].shape[1:]):
                found = "missing" if stacked is None else f"of shape {tuple(stacked.shape)}"
                raise UserError(f"the checkpoint fits no DiT: {name} is {found}")
            for part, value in zip(parts, stacked.split(rows), strict=True):
                part.copy_(value)
    if left:
        raise UserError(f"the checkpoint holds weights that no DiT has: {', '.join(sorted(left)[:3])}")
    theirs = tensors["pos_embed"].float()
    ours = position_table(len(tensors["x_embedder.proj.bias"]), math.isqrt(theirs.shape[1]))
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0, atol=5e-3):  # half precision rounds
        raise UserError("the checkpoint's pos_embed is not the table of sines and cosines that diffusers computes")
    return transformer


def to_original(transformer: Any) -> dict[str, torch.Tensor]:
    """The weights of a tied transformer under the original's names and in its order, float32 on the CPU."""
    config = transformer.config
    width, grid = config.num_attention_heads * config.attention_head_dim, config.sample_size // config.patch_size
    found = {"pos_embed": position_table(width, grid)}
    for name, parts in weight_map(transformer):
        found[name] = torch.cat([part.detach().float().cpu() for part in parts])
    return found


def weight_map(transformer: Any) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Each original weight's name, with the parameters here whose rows it stacks (queries, keys, values: three)."""
    for theirs, ours in _modules(len(transformer.transformer_blocks)):
        layers = [transformer.get_submodule(name) for name in ours]
        for kind in ("weight", "bias"):
            if getattr(layers[0], kind, None) is not None:
                yield f"{theirs}.{kind}", [getattr(layer, kind) for layer in layers]


def _modules(depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "x_embedder.proj", ("pos_embed.proj",)
    embedder = "transformer_blocks.0.norm1.emb"
    yield "t_embedder.mlp.0", (f"{embedder}.timestep_embedder.linear_1",)
    yield "t_embedder.mlp.2", (f"{embedder}.timestep_embedder.linear_2",)
    yield "y_embedder.embedding_table", (f"{embedder}.class_embedder.embedding_table",)
    for index in range(depth):
        theirs, ours = f"blocks.{index}", f"transformer_blocks.{index}"
        yield f"{theirs}.attn.qkv", tuple(f"{ours}.attn1.to_{part}" for part in "qkv")
        yield f"{theirs}.attn.proj", (f"{ours}.attn1.to_out.0",)
        yield f"{theirs}.mlp.fc1", (f"{ours}.ff.net.0.proj",)
        yield f"{theirs}.mlp.fc2", (f"{ours}.ff.net.2",)
        yield f"{theirs}.adaLN_modulation.1", (f"{ours}.norm1.linear",)
    yield "final_layer.linear", ("proj_out_2",)
    yield "final_layer.adaLN_modulation.1", ("proj_out_1",)


def position_table(width: int, grid: int) -> torch.Tensor:
    """Sines and cosines of each patch's column, then of its row: float32, 1 x grid² x width.

    Vaswani et al. 2017, section 3.5, an axis to each half of the width.
    """
    frequencies = 1 / 10000 ** (np.arange(width // 4) / (width // 4))
    row, column = np.divmod(np.arange(grid * grid), grid)
    axes = [np.outer(place, frequencies) for place in (column, row)]
    table = np.concatenate([wave(angles) for angles in axes for wave in (np.sin, np.cos)], axis=1)
    return torch.from_numpy(table.astype(np.float32))[None]
