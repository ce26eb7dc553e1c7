"""Files from others: only regular ones are opened, nothing is unpickled, and no declared size is believed.

Raises UserError for whatever is refused.
"""

from __future__ import annotations

import os
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from .errors import UserError
from .text import brief, plain

PIXELS = 89_478_485  # a quarter GiB of RGB, at which PIL begins to warn; ImageNet's largest image has 61 million
ASPECT = 256  # longer side to shorter: cropping first scales the shorter one to the size wanted
TEXT_BYTES = 2**24  # of a YAML file; ours have a few thousand
ARCHIVE_BYTES = 2**36  # of the images of an .npz; 50,000 of 512 x 512 are 2**35.2
SHARED = 4  # tensors that may share their bytes, as tied weights do
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # what PIL may take a file for; some others run programs
EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # PIL's modes; it clips wider ones
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
PICKLED = "holds more than tensors; it was not loaded, for unpickling it would run its code"


def open_regular(path: Path | str) -> BufferedReader:
    """A file opened for reading, if it is one: no pipe that blocks, no device that never ends.

    Raises UserError for another kind, OSError as ``open`` does.
    """
    handle, _ = _open(path)
    return os.fdopen(handle, "rb")


def read_regular(path: Path | str, limit: int) -> bytes | None:
    """All of a file of at most ``limit`` bytes, else None; as :func:`open_regular`, in a third of its time."""
    handle, size = _open(path)
    try:
        if size > limit:
            return None
        data = os.read(handle, size)
        while more := os.read(handle, max(4096, size - len(data))):  # some file systems tell no size
            data += more
            if len(data) > limit:
                return None
        return data
    finally:
        os.close(handle)


def _open(path: Path | str) -> tuple[int, int]:
    """A descriptor, and the file's size."""
    handle = os.open(path, READING)
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is no regular file; give a file, or a copy of what it stands for")
    except BaseException:
        os.close(handle)
        raise
    return handle, about.st_size


def check_regular(path: Path) -> None:
    """Raises UserError if ``path`` cannot be read or is no regular file."""
    try:
        open_regular(path).close()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def check_pixels(size: tuple[int, int], path: Path | str) -> None:
    """Raises UserError for an image (width, height) that would take too much memory; to be asked before decoding."""
    width, height = size
    if width * height > PIXELS or max(size) > ASPECT * max(1, min(size)):
        raise UserError(
            f"cannot read the image {path}: {width} x {height} pixels; at most {PIXELS:,} are read, and one side at "
            f"most {ASPECT} times the other"
        )


def image_fault(path: Path | str, error: BaseException) -> UserError:
    """What PIL raised for ``path``, in one line; of what it does not know at all it says an object's address."""
    unknown = type(error).__name__ == "UnidentifiedImageError"
    why = f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}" if unknown else reason(error)
    return UserError(f"cannot read the image {path}: {why}")


def read_pickled(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Tensors and plain values of a file that ``torch.save`` wrote, on the CPU, mapped where the file allows it.

    By torch's restricted unpickler: anything that would import or call something is refused. A zip archive may not be
    compressed or declare more than it holds, and no tensor may be larger than its bytes in the file.
    """
    import torch

    check_regular(path)
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_stored(path)
    try:
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is damaged or {PICKLED}") from None
    except Exception as error:  # zip, pickle and torch each raise their own kinds
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    _check_tensors(path, content)
    return content


def _check_stored(path: Path) -> None:
    """torch stores without compression, one record after the other."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile's own, and those of what is in it
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path} is a compressed archive, which torch never writes; it was not loaded")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UserError(f"{path} declares more bytes than it has; it was not loaded")


def _check_tensors(path: Path, content: Any) -> None:
    import torch

    held, total = path.stat().st_size, 0
    todo, seen = [content], set[int]()
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            sane = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
            total += value.numel() * value.element_size()  # by strides of 0 a few bytes are a tensor of any size
            if not sane or total > SHARED * held:
                raise UserError(f"{path} holds a tensor {brief(tuple(value.shape))} that is larger than the file")
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            todo += [*value.values()] if isinstance(value, dict) else [*value]


def reason(error: BaseException) -> str:
    """An exception's text as one short line, or its kind."""
    text = plain(" ".join(str(error).split()))
    return (text if len(text) <= 200 else f"{text[:200]}...") or type(error).__name__


def npy_header(member: Any) -> tuple[tuple[int, ...], bool, Any, int]:
    """Shape, Fortran order, dtype and length of the header of an open .npy. Raises ValueError if it is none."""
    import numpy as np

    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an .npy of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    return tuple(int(side) for side in shape), fortran, dtype, int(member.tell())


def check_npy(info: zipfile.ZipInfo, shape: Sequence[int], itemsize: int, header: int, limit: int) -> None:
    """Raises ValueError if a member's header and its entry in the archive disagree, or it is too large to be read."""
    wanted = header + itemsize
    for side in shape:
        wanted = header + (wanted - header) * side
    if min(shape, default=1) < 0 or wanted != info.file_size:
        raise ValueError(f"{info.filename} is {info.file_size} bytes and its header promises {wanted}")
    if wanted > limit:
        raise ValueError(f"{info.filename} is {wanted:,} bytes; at most {limit:,} are read")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise ValueError(f"{info.filename} has two sizes")


def is_plain_name(name: object) -> bool:
    """Whether this is a file's name and no path out of its folder."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\w][\w. +-]*", name)) and ".." not in name
