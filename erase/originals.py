"""The original model's images, drawn once for all runs, and their place beside the erased model's."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from .compiled import compiled
from .config import SampleConfig
from .files import cache_folder, digest, link, replacing_folder, write_text
from .model import Model
from .precision import arithmetic
from .sampling import drawing, image_path, sample_folder


def original_samples(
    model: Model,
    sample: SampleConfig,
    precision: str = "auto",
    counts: Mapping[int, int] | None = None,
    compile: bool = False,
) -> Path:
    """The original model's images under this protocol, made once and kept in the cache.

    ``counts``: how many of each class; default: ``per_class`` of all.
    """
    counts = dict.fromkeys(model.classes, sample.per_class) if counts is None else counts
    how = arithmetic(model.device, precision, compile)
    folder = cache_folder("samples", digest(model.key(), list(counts.items()), *how, drawing(sample)))
    with compiled(model.transformer, compile, drawing=True):
        sample_folder(model, folder, sample, counts, "sample original", precision)
    return folder


def drop_stale_samples(folder: Path, key: str) -> None:
    """Removes images of other weights, for instance of a model that was made anew between a stop and its resume."""
    mark = folder / "key"
    if folder.is_dir() and not (mark.is_file() and mark.read_text(encoding="utf-8") == key):
        shutil.rmtree(folder)
    write_text(mark, key)


def copy_samples(source: Path, target: Path, counts: Mapping[int, int]) -> None:
    """Hard links where the file system allows it, else copies."""
    if target.is_dir():
        return
    with replacing_folder(target, sync=False) as folder:
        for label, count in counts.items():
            (folder / f"{label:04d}").mkdir()
            for number in range(count):
                link(image_path(source, label, number), image_path(folder, label, number))
