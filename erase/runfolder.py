"""The folder of a run: whose it is, and whether there is space."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from .config import ResolvedConfig, as_mapping, changes
from .errors import UserError
from .files import write_text
from .model import Model
from .presets import load_yaml


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
