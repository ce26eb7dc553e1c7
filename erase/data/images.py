"""Image sets: the shipped digits, or a folder with one sub-folder a class."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import rng
from ..errors import UserError
from ..files import digest, file_digests, read_tensors, shipped
from ..text import is_name
from ..untrusted import EIGHT_BITS, FORMATS, check_pixels, image_fault, open_regular
from .listing import class_folders, image_files

HELD_OUT_SHARE = 0.2
BAD_IMAGE = (  # what PIL's decoders raise for damage of all kinds
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error,
    zlib.error, NotImplementedError, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """Labelled RGB images of one size.

    ``labels`` are class ids (int64, n); ``held_out`` marks the images that no training may see (bool, n);
    Pixels are read when asked for (``pixels``: uint8, 3 x size x size) or held in memory (``arrays``: uint8,
    n x 3 x size x size). ``origin``: the folder of the files, or a key that changes with any pixel of the arrays.
    """

    names: dict[int, str]
    labels: np.ndarray
    held_out: np.ndarray
    size: int
    origin: str
    files: tuple[Path, ...] = ()
    arrays: torch.Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def key(self) -> str:
        """Changes with any pixel. Of files, this reads every one that is not known yet."""
        if self.arrays is not None:
            return self.origin
        names = [str(file.relative_to(self.origin)) for file in self.files]
        found = self.digests(np.arange(len(self)))
        return f"folder-{digest(list(zip(names, found, strict=True)), self.size)}"

    def digests(self, indices: np.ndarray) -> list[str]:
        """One digest of the content of each of these images; reads no others."""
        if self.arrays is not None:
            return [f"{self.origin}/{index}" for index in indices.tolist()]
        return file_digests(Path(self.origin), [self.files[index] for index in indices.tolist()])

    def pixels(self, index: int) -> torch.Tensor:
        if self.arrays is not None:
            return self.arrays[index]
        return read_image(self.files[index], self.size)

    def batches(self, indices: Sequence[int] | np.ndarray, size: int = 128) -> Iterator[torch.Tensor]:
        """Batches of images in the order of ``indices``: uint8, n x 3 x size x size."""
        for start in range(0, len(indices), size):
            yield torch.stack([self.pixels(int(i)) for i in indices[start : start + size]])

    def select(self, classes: Sequence[int], held_out: bool | None = None) -> np.ndarray:
        """Indices of the images of these classes, in order; all of them, or only one side of the split."""
        chosen = np.isin(self.labels, list(classes))
        if held_out is not None:
            chosen &= self.held_out == held_out
        return np.flatnonzero(chosen)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's crop: halve with a box filter while twice too large, bicubic to the short side, cut the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def read_image(path: Path, size: int | None = None) -> torch.Tensor:
    """One file as RGB uint8, 3 x H x W, centre-cropped to ``size`` if given.

    Raises UserError naming the file if it is missing, damaged or no image.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as opened:
            check_pixels(opened.size, path)
            if opened.mode not in EIGHT_BITS:
                raise UserError(f"{path} holds {opened.mode} pixels; 8 bits a channel are needed")
            image = opened.convert("RGB")
    except BAD_IMAGE as error:
        raise image_fault(path, error) from None
    if size is not None and image.size != (size, size):
        image = center_crop(image, size)
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def enlarge_digits(small: np.ndarray, size: int = 32) -> np.ndarray:
    """UCI digits (n x 8 x 8, values 0 to 16) as grey uint8 images, n x size x size, enlarged by bicubic filter."""
    grey = np.round(small.astype(np.float64) * (255 / 16)).astype(np.uint8)
    bicubic = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), bicubic)) for image in grey])


def digits() -> ImageSet:
    """The 1,797 UCI handwritten digits in RGB, 32 x 32, with the split that VAE, DiT and classifier respect."""
    path = shipped("assets") / "digits" / "data.safetensors"
    stored = read_tensors(path)
    grey = torch.from_numpy(enlarge_digits(stored["images"].numpy()))
    return ImageSet(
        names={label: str(label) for label in range(10)},
        labels=stored["labels"].numpy().astype(np.int64),
        held_out=stored["held_out"].numpy().astype(bool),
        size=32,
        origin=f"digits-{digest(path)}",
        arrays=grey[:, None].expand(-1, 3, -1, -1),
    )


def folder(root: Path, size: int, classes: dict[str, int] | None = None) -> ImageSet:
    """A folder with one sub-folder a class; ``classes`` maps sub-folder names to ids.

    Default ids are the names' own numbers where all are numbers, so that index and name agree, else the sorted order.
    """
    if not root.is_dir():
        raise UserError(f"no data folder at {root}; give --data digits or a folder with one sub-folder a class")
    found = class_folders(root)
    odd = next((path for path in found if not is_name(path.name)), None)
    if odd is not None:
        raise UserError(f"the data folder {odd} has a name that no class can have; rename it to short printable text")
    if classes is None:
        classes, rename = _ids([path.name for path in found]), "rename it"
    else:
        rename = "rename it, here and in id2label of the model's model_index.json"
    names = {label: name for name, label in classes.items()}
    files: list[Path] = []
    labels: list[int] = []
    for path in found:
        if path.name not in classes:
            raise UserError(f"the data folder {path} is no class of the model; known: {', '.join(list(classes)[:20])}")
        label, index = classes[path.name], int(path.name) if re.fullmatch("[0-9]+", path.name) else None
        if index is not None and index in names and index != label:
            raise UserError(
                f"the data folder {path} bears the name of class {label} and the index of class {index} "
                f"({names[index]}); {rename}"
            )
        images = sorted(map(Path, image_files(path)))
        files += images
        labels += [classes[path.name]] * len(images)
    if not files:
        raise UserError(f"no images under {root}; it needs one sub-folder a class, holding PNG or JPEG files")
    present = set(labels)
    used = {label: name for name, label in classes.items() if label in present}
    array = np.array(labels, dtype=np.int64)
    return ImageSet(used, array, split(array), size, str(root), files=tuple(files))


def _ids(names: list[str]) -> dict[str, int]:
    numbers = [int(name) for name in names if re.fullmatch("[0-9]+", name)]
    if len(set(numbers)) != len(names):
        numbers = list(range(len(names)))
    return dict(zip(names, numbers, strict=True))


def split(labels: np.ndarray, share: float = HELD_OUT_SHARE, seed: int = 0) -> np.ndarray:
    """A fixed class-balanced split: True for the ``share`` of each class that is held out."""
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = rng.generator(seed, f"split/{label}").permutation(len(members))
        held_out[members[order[: round(share * len(members))]]] = True
    return held_out


def load_images(source: str, size: int, classes: dict[str, int] | None = None) -> ImageSet:
    """``digits`` or a folder."""
    if source != "digits":
        return folder(Path(source), size, classes)
    if size != 32:
        raise UserError(f"the digits are 32 pixels a side and the model draws {size}")
    return digits()
