"""``erase convert``: between the original checkpoint layout and diffusers folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .dit import time_shift
from .errors import UserError
from .files import check_writable, replacing
from .model import Model, load_model, save_model, weights_key
from .original import to_original

ORIGINAL = (".pt", ".pth")
DIFFERENCE = (
    "its time features are those of diffusers (frequencies in steps of 1/127, the original's in steps of 1/128), which "
    "the original layout cannot record; code of that layout would draw differently with these weights"
)


def convert(
    source: str,
    target: str,
    vae: str | None = None,
    num_heads: int | None = None,
    allow_difference: bool = False,
) -> dict[str, Any]:
    """Writes the model ``source`` to ``target``: the original layout if that ends in .pt, else a diffusers folder.

    ``vae`` and ``num_heads`` as in :func:`erase.load_model`. Returns what was written; its ``notes`` say what the
    target lacks or does differently. Raises UserError if the target is there already, or if it would silently compute
    something else and ``allow_difference`` is false.
    """
    path = Path(target)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{target} is there already; remove it or give another place")
    if path.suffix == ".safetensors":
        raise UserError(f"{target}: give a folder, or a file ending in .pt for the original layout")
    check_writable(path.parent, "the folder")
    model = load_model(source, vae, num_heads)
    notes = _write_original(model, path, source, allow_difference) if path.suffix in ORIGINAL else _write(model, path)
    return {
        "source": source,
        "target": target,
        "layout": "original" if path.suffix in ORIGINAL else "diffusers",
        "parameters": sum(p.numel() for p in model.transformer.parameters()),
        "time_features": "diffusers" if time_shift(model.transformer) else "original",
        "weights": weights_key(model.transformer),
        "notes": notes,
    }


def _write_original(model: Model, path: Path, source: str, allow_difference: bool) -> list[str]:
    different = bool(time_shift(model.transformer))
    if different and not allow_difference:
        raise UserError(f"{source} is no model of the original code: {DIFFERENCE}; --allow-difference writes it anyway")
    with replacing(path) as temporary, temporary.open("wb") as file:  # an open file, whose errors say what they are
        torch.save(to_original(model.transformer), file)
    return [DIFFERENCE] if different else []


def _write(model: Model, path: Path) -> list[str]:
    save_model(model, path)
    notes = []
    if not time_shift(model.transformer):
        notes.append("stock DiTPipeline ignores its time features and draws slightly differently; erase keeps to them")
    if model.vae is None:
        notes.append("it holds no VAE, which sampling needs; --vae DIR puts one in")
    return notes
