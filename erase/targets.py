"""What images are compared to: the statistics of real ones, from images, from a file of ours, or from ADM's .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .classifier import load_instrument
from .data.images import digits, load_images
from .errors import UserError
from .extractors import INCEPTION, Extractor
from .files import cache_folder, digest, file_digests, once, read_tensors, write_tensors
from .metrics.fid import Statistics
from .model import read_labels
from .packs import read_about, understood
from .pictures import Pictures, find_pictures, image_set_pictures, is_run
from .presets import load_yaml
from .reference import NAME as PACK
from .reference import read_reference
from .streaming import shared_moments
from .untrusted import check_npy, check_regular, npy_header, reason

FORMAT = "erase-statistics-1"
MOMENT_BYTES = 2**31  # of a covariance; Inception's has 2**25


@dataclass(frozen=True)
class Target:
    """Statistics of real images: ``count`` and ``size`` (height, width) are None where a file does not tell them."""

    name: str
    key: str
    statistics: Statistics
    count: int | None
    size: tuple[int, int] | None


def preprocessing(size: int | None) -> str:
    return "rgb uint8" if size is None else f"rgb uint8, ADM centre crop to {size}"


def find_target(
    source: str | Path,
    extractor: Extractor,
    size: int | None = None,
    batch: int | None = None,
    classes: Sequence[int] | None = None,
) -> Target:
    """The reference at ``source``: ``digits``, a folder of images, an .npz of images or of ``mu`` and ``sigma``, a
    statistics file, or a pack that keeps statistics of each class, of which ``classes`` are taken.

    Raises UserError if there is nothing, or if it was made with another extractor or preprocessing.
    """
    if has_images(source):
        return measure(target_pictures(source), extractor, size, batch)
    path = statistics_file(source)
    if path.name == PACK:
        return read_pack(path.parent, extractor, size, classes)
    return read_adm(path, extractor) if path.suffix == ".npz" else read_target(path, extractor, size)


def check_target(source: str | Path) -> None:
    """Raises UserError if nothing lies at ``source`` that could be a reference."""
    if str(source) != "digits" and not Path(source).exists():
        raise UserError(
            f"no images at {source}; a reference is digits, a folder of images, a statistics file or an .npz"
        )


def statistics_file(source: str | Path) -> Path:
    """The file of a reference without images."""
    return Path(source) / PACK if (Path(source) / PACK).is_file() else Path(source)


def has_images(source: str | Path) -> bool:
    """Whether a reference is images, and not statistics of them. Raises UserError for an .npz that cannot be read."""
    path = statistics_file(source)
    if path.suffix != ".npz":
        return path.suffix != ".safetensors"
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as zipped:
            return not {"mu.npy", "sigma.npy"} <= set(zipped.namelist())
    except Exception as error:  # zipfile's own kinds, and those of what is in it
        raise UserError(f"cannot read {path}: {reason(error)}") from None


def target_pictures(source: str | Path) -> Pictures:
    """The images of a reference."""
    if str(source) == "digits" and not Path(source).exists():
        return image_set_pictures(digits(), "digits")
    if is_run(Path(source)):
        raise UserError(f"the reference {source} is a run; give real images, or statistics of them")
    return find_pictures(source)[0]


def target_key(pictures: Pictures, extractor: Extractor, size: int | None) -> str:
    return digest(FORMAT, pictures.key, extractor.key, extractor.layer, extractor.device.type, preprocessing(size))


def measure(pictures: Pictures, extractor: Extractor, size: int | None = None, batch: int | None = None) -> Target:
    """Statistics of these images, cached by their content, the extractor and the preprocessing."""
    key = target_key(pictures, extractor, size)

    def make() -> dict[str, torch.Tensor]:
        with tqdm(total=len(pictures), desc="reference", unit="image") as bar:
            found, shape = shared_moments(pictures, extractor, batch, size, bar)
        statistics = found.statistics()
        return {
            "mu": torch.from_numpy(statistics["mu"]),
            "sigma": torch.from_numpy(statistics["sigma"]),
            "count": torch.tensor(found.count),
            "size": torch.tensor(shape),
        }

    held = once(cache_folder("statistics") / f"{key}.safetensors", make)
    return _target(pictures.name, key, held)


def _target(name: str, key: str, held: dict[str, Any]) -> Target:
    statistics = {"mu": held["mu"].numpy(), "sigma": held["sigma"].numpy()}
    height, width = (int(side) for side in held["size"])
    return Target(name, key, statistics, int(held["count"]), (height, width))


def save_target(target: Target, path: Path, extractor: Extractor, size: int | None) -> None:
    """A statistics file that ``--reference`` takes: mean, covariance, count, and what they were made with."""
    if target.count is None or target.size is None:
        raise UserError(f"{target.name} holds statistics already; --save-reference needs images")
    tensors = {
        "mu": torch.from_numpy(target.statistics["mu"]),
        "sigma": torch.from_numpy(target.statistics["sigma"]),
        "count": torch.tensor(target.count),
        "size": torch.tensor(target.size),
    }
    about = {
        "format": FORMAT, "extractor": extractor.name, "extractor_key": extractor.key, "layer": extractor.layer,
        "preprocessing": preprocessing(size), "key": target.key, "images": target.name,
    }  # fmt: skip
    write_tensors(path, tensors, about)


def read_target(path: Path, extractor: Extractor, size: int | None) -> Target:
    """A statistics file. Raises UserError if it was made with another extractor or preprocessing."""
    from safetensors import SafetensorError, safe_open

    held = read_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
    n = shapes.get("mu", (0,))[0] if shapes.get("mu") else 0
    if about.get("format") != FORMAT or shapes != {"mu": (n,), "sigma": (n, n), "count": (), "size": (2,)}:
        raise UserError(f"{path} is no statistics file; erase fid --save-reference makes one")
    for what, mine in (
        ("extractor", extractor.name), ("extractor_key", extractor.key), ("layer", extractor.layer),
        ("preprocessing", preprocessing(size)),
    ):  # fmt: skip
        if about.get(what) != mine:
            raise UserError(f"{path} was made with {what} {about.get(what)!r}, not {mine!r}")
    return _target(str(path), about.get("key", digest(path)), held)


def read_pack(pack: Path, extractor: Extractor, size: int | None, classes: Sequence[int] | None) -> Target:
    """A pack's own statistics of its real images, of these classes or of all."""
    if load_instrument(pack / "classifier").key != extractor.key:
        raise UserError(f"{pack} holds statistics of its own classifier's features; give --extractor {pack}")
    if size is not None:
        raise UserError(f"{pack} holds statistics of uncropped images; leave --size out, or give images")
    held = read_reference(pack)
    chosen = held.labels.tolist() if classes is None else [int(label) for label in classes]
    found = held.statistics(chosen)
    count = int(held.count[np.isin(held.labels, chosen)].sum())
    statistics = {"mu": found["mu"].astype(np.float64), "sigma": found["sigma"]}
    return Target(str(pack), digest(pack / PACK, sorted(chosen)), statistics, count, None)


def read_adm(path: Path, extractor: Extractor) -> Target:
    """ADM's reference batch (Dhariwal and Nichol 2021): ``mu`` and ``sigma``, its 10,000 images left alone.

    Never unpickles.
    """
    try:
        with zipfile.ZipFile(path) as zipped:
            for name in ("mu.npy", "sigma.npy"):
                with zipped.open(name) as member:
                    shape, _, dtype, header = npy_header(member)
                if dtype.kind != "f":
                    raise ValueError(f"{name} holds {dtype}, not numbers")
                check_npy(zipped.getinfo(name), shape, dtype.itemsize, header, MOMENT_BYTES)
        with np.load(path, allow_pickle=False) as stored:
            mu, sigma = stored["mu"].astype(np.float64), stored["sigma"].astype(np.float64)
    except Exception as error:  # zipfile's own kinds, and those of what packs and numbers its members
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise UserError(f"{path}: mu {mu.shape} and sigma {sigma.shape} do not fit together")
    if extractor.name != INCEPTION:
        raise UserError(f"{path} holds statistics of Inception features, which say nothing about {extractor.name}'s")
    return Target(str(path), file_digests(path.parent, [path])[0], {"mu": mu, "sigma": sigma}, None, None)


def check_width(target: Target, width: int) -> None:
    """Raises UserError if the features compared have another width than the reference's."""
    if len(target.statistics["mu"]) != width:
        raise UserError(f"{target.name} has {len(target.statistics['mu'])} features and the extractor gives {width}")


def run_target(
    run: Path,
    classes: Sequence[int],
    side: int,
    extractor: Extractor,
    size: int | None = None,
    batch: int | None = None,
) -> Target:
    """Statistics of the real images of these classes in a run's own data, as its results.json has them.

    ``side``: the generated images' width, to which a run crops its data.
    """
    return measure(run_data(run, side).select(classes), extractor, size or side, batch)


def run_data(run: Path, side: int) -> Pictures:
    """The real images that a run was made with, to be cropped to ``side``. Raises UserError if it does not say."""
    from .instruments import has_published, run_reference

    source = data_of(run)
    if source is None:
        raise UserError(f"the run {run} does not say where its real images are; give --reference")
    if has_published(run):
        return run_reference(run, side)
    names = {name: label for label, name in read_labels(run / "model").items()}
    return image_set_pictures(load_images(source, side, names), source)


def data_of(run: Path) -> str | None:
    """Where the real images of a run came from: its config's data, else its pack's."""
    config = load_yaml(run / "config.yaml") if (run / "config.yaml").is_file() else {}
    with understood(run / "config.yaml"):
        source = (config.get("data") or {}).get("source")
    if not source:
        source = (read_about(run / "model") or {}).get("data", {}).get("source")
    return str(source) if source else None


def is_data_of(source: str | Path, run: Path) -> bool:
    """Whether a reference is the run's own data, so that a run's retained classes are compared to the same classes."""
    data = data_of(run)
    return data is not None and (str(source) == data or Path(source).resolve() == Path(data).resolve())
