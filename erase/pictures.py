"""Images to score: a folder, an .npz of uint8 images, a run's samples, or images in memory."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode

from .data.images import BAD_IMAGE, ImageSet, center_crop
from .data.listing import SUFFIXES, image_files
from .errors import UserError
from .files import digest, file_digests, relative_names
from .packs import read_results
from .untrusted import (
    ARCHIVE_BYTES,
    EIGHT_BITS,
    FORMATS,
    check_npy,
    check_pixels,
    check_regular,
    image_fault,
    npy_header,
    read_regular,
    reason,
)

IMAGE_BYTES = 2**30  # of one file
PLAIN_PNG = b"\x08\x02\x00\x00\x00"  # 8 bits a channel, RGB, no interlace: bytes 24 to 28 of the file


@dataclass(frozen=True)
class Archive:
    """Images n x H x W x 3 of uint8, uncompressed in a file from ``offset`` on."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    keep: Any = field(default=None, repr=False)  # the folder of an unpacked copy lives as long as this

    def read(self, start: int, stop: int) -> torch.Tensor:
        size = int(np.prod(self.shape[1:]))
        flat = np.fromfile(self.path, np.uint8, (stop - start) * size, offset=self.offset + start * size)
        return torch.from_numpy(flat.reshape(-1, *self.shape[1:])).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Pictures:
    """n RGB images, read when asked for.

    ``key`` changes with any byte of them. ``labels``: class ids (int64, n) where they are known. ``side``: original or
    erased, of a run ``run``. ``names``: class names by id.
    """

    name: str
    key: str
    files: tuple[str | Path, ...] = ()
    archive: Archive | None = None
    arrays: torch.Tensor | None = field(default=None, repr=False)
    labels: np.ndarray | None = field(default=None, repr=False)
    side: str | None = None
    run: Path | None = None
    forget: tuple[int, ...] = ()

    def __len__(self) -> int:
        if self.archive is not None:
            return self.archive.shape[0]
        return len(self.files) if self.arrays is None else len(self.arrays)

    def read(self, start: int, stop: int, size: int | None = None) -> torch.Tensor:
        """Images ``start`` to ``stop``: uint8, n x 3 x H x W, centre-cropped to ``size`` if given.

        Raises UserError for a damaged file, or images of different sizes.
        """
        if self.files:
            images = [read_file(path, size) for path in self.files[start:stop]]
            shapes = [image.shape for image in images]
            odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
            if odd is not None:
                raise different_sizes(self.files[start + odd], shapes[odd], shapes[0])
            return torch.stack(images)
        part = self.archive.read(start, stop) if self.archive is not None else self.arrays[start:stop]  # type: ignore[index]
        if size is None or part.shape[2:] == (size, size):
            return part
        cropped = [np.array(center_crop(Image.fromarray(x.permute(1, 2, 0).numpy()), size)) for x in part]
        return torch.from_numpy(np.stack(cropped)).permute(0, 3, 1, 2).contiguous()

    def select(self, classes: Sequence[int]) -> Pictures:
        """The images of these classes. Raises UserError if the classes are not known."""
        if self.labels is None:
            raise UserError(f"{self.name} does not say which image is of which class")
        rows = np.flatnonzero(np.isin(self.labels, list(classes)))
        return replace(
            self,
            key=digest(self.key, sorted(int(c) for c in classes)),
            files=tuple(self.files[i] for i in rows) if self.files else (),
            arrays=None if self.arrays is None else self.arrays[rows],
            labels=self.labels[rows],
        )


def different_sizes(name: object, shape: Sequence[int], others: Sequence[int]) -> UserError:
    return UserError(
        f"{name} is {shape[-1]} x {shape[-2]} pixels and others are {others[-1]} x {others[-2]}; --size N crops all"
    )


def read_file(path: str | Path, size: int | None = None) -> torch.Tensor:
    """One file as RGB uint8, 3 x H x W. Raises UserError naming it if it is damaged, or has more than 8 bits."""
    try:
        data = read_regular(path, IMAGE_BYTES) or b""  # what is larger is no file of pixels
        if data[12:16] == b"IHDR":
            check_pixels((int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")), path)
        if size is None and data[24:29] == PLAIN_PNG and data[:4] == b"\x89PNG":
            with contextlib.suppress(RuntimeError, AttributeError):  # PIL says what is wrong with it
                return decode_png(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            check_pixels(opened.size, path)
            if opened.mode not in EIGHT_BITS:
                raise UserError(f"{path} holds {opened.mode} pixels; 8 bits a channel are needed")
            image = opened.convert("RGB")
    except BAD_IMAGE as error:
        raise image_fault(path, error) from None
    if size is not None and image.size != (size, size):
        image = center_crop(image, size)
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def decode_png(data: bytes) -> torch.Tensor:
    """An RGB image by torchvision's operator, in half of PIL's time.

    Not by its Python function, which spends a third of that on a warning: a torchvision without it leaves it to PIL.
    """
    values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    image: torch.Tensor = torch.ops.image.decode_png(values, ImageReadMode.RGB.value, False)
    return image


def check_pictures(source: str | Path) -> None:
    """Raises UserError if nothing lies at ``source``."""
    if not Path(source).exists():
        raise UserError(f"no images at {source}; give a folder, an .npz of uint8 images, or a run folder")


def find_pictures(source: str | Path) -> list[Pictures]:
    """What lies at ``source``: of a run its original and erased samples of the retained classes, else one set.

    Raises UserError if there is nothing to read.
    """
    path = Path(source)
    if is_run(path):
        found = run_pictures(path)
        return [one.select([c for c in np.unique(one.labels) if c not in one.forget]) for one in found]  # type: ignore[arg-type]
    if path.suffix == ".npz":
        return [archive_pictures(path)]
    return [folder_pictures(path)]


def is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.yaml", "results.json"))


def run_pictures(path: Path) -> list[Pictures]:
    """All samples of a finished run, original and erased."""
    if not (path / "results.json").is_file():
        raise UserError(f"the run {path} is not finished; the command that started it continues it")
    forget = tuple(int(entry["index"]) for entry in read_results(path)["forget"])
    sides = [side for side in ("original", "erased") if (path / "samples" / side).is_dir()]
    if not sides:
        raise UserError(f"the run {path} keeps no samples; erase sample {path} --output DIR draws some")
    found = [folder_pictures(path / "samples" / side) for side in sides]
    return [
        replace(one, name=f"{path} ({side})", side=side, run=path, forget=forget)
        for one, side in zip(found, sides, strict=True)
    ]


def folder_pictures(root: Path) -> Pictures:
    """A folder, nested or flat; sub-folders with a number for a name are class ids."""
    if not root.is_dir():
        raise UserError(f"no images at {root}; give a folder, an .npz of uint8 images, or a run folder")
    files = image_files(root)
    if not files:
        raise UserError(f"no images under {root} ({', '.join(sorted(SUFFIXES))})")
    names = relative_names(root, files)
    stamp = list(zip(names, file_digests(root, files), strict=True))
    parents = [os.path.basename(os.path.dirname(name)) for name in names]
    numbered = all(re.fullmatch("[0-9]+", name) for name in set(parents))
    labels = np.array([int(name) for name in parents], dtype=np.int64) if numbered else None
    return Pictures(str(root), f"folder-{digest(stamp)}", files=tuple(files), labels=labels)


def archive_pictures(path: Path) -> Pictures:
    """``arr_0`` of an .npz: uint8, n x H x W x 3, read piece by piece."""
    archive = open_archive(path)
    return Pictures(str(path), f"npz-{file_digests(path.parent, [path])[0]}", archive=archive)


def open_archive(path: Path) -> Archive:
    keep = None
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as zipped:
            if "arr_0.npy" not in zipped.namelist():
                raise UserError(f"{path} holds no arr_0; it has {', '.join(zipped.namelist())[:200]}")
            info = zipped.getinfo("arr_0.npy")
            with zipped.open(info) as member:
                shape, fortran, dtype, header = npy_header(member)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran:
                raise UserError(
                    f"{path}: arr_0 is {dtype} {shape}; uint8 images n x H x W x 3, RGB, 0 to 255, are needed"
                )
            check_npy(info, shape, 1, header, ARCHIVE_BYTES)
            check_pixels((shape[2], shape[1]), path)
            if info.compress_type == zipfile.ZIP_STORED:
                with path.open("rb") as file:
                    file.seek(info.header_offset + 26)
                    lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
                offset = info.header_offset + 30 + lengths + header
                if offset + int(np.prod(shape)) > path.stat().st_size:
                    raise ValueError("it is cut short")
                return Archive(path, offset, shape)
            if info.file_size > shutil.disk_usage(tempfile.gettempdir()).free:
                raise ValueError(f"unpacked it needs {info.file_size:,} bytes in {tempfile.gettempdir()}; make space")
            keep = tempfile.TemporaryDirectory(prefix="erase-")
            return Archive(Path(zipped.extract(info, keep.name)), header, shape, keep)
    except UserError:
        raise
    except Exception as error:  # zipfile's own kinds, and those of what packs and numbers its members
        raise UserError(f"cannot read {path}: {reason(error)}") from None


def image_set_pictures(images: ImageSet, name: str) -> Pictures:
    return Pictures(name, images.key, images.files, arrays=images.arrays, labels=images.labels)


def spans(pictures: Pictures, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, len(pictures), size):
        yield start, min(start + size, len(pictures))
