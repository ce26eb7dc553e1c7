"""Images inside a page: PNG files as data URIs, and strips of several."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import UserError

LARGEST = 128  # pixels a side of an image in a strip; larger ones are reduced, for the page holds many


@dataclass(frozen=True)
class Inline:
    """An image as ``src`` of ``<img>``. ``pixelated``: small enough to be shown with its pixels as squares."""

    src: str
    width: int
    height: int
    pixelated: bool = False


def inline_file(path: Path) -> Inline:
    """A PNG file as it is. Raises UserError for one that cannot be read."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return Inline(_uri(data), *image.size)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read the image {path}: {error}") from None


def strip(paths: Sequence[Path], columns: int) -> Inline | None:
    """The images that are there, row by row, a thin gap between; None if there is none."""
    images = [_read(path) for path in paths if path.is_file()]
    if not images:
        return None
    side = max(max(image.size) for image in images)
    gap = max(1, side // 32)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    page = Image.new("RGBA", (columns * (side + gap) - gap, rows * (side + gap) - gap))
    for i, image in enumerate(images):
        page.paste(image, ((i % columns) * (side + gap), (i // columns) * (side + gap)))
    data = io.BytesIO()
    page.save(data, "PNG", optimize=True)
    return Inline(_uri(data.getvalue()), *page.size, pixelated=side <= 64)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read the image {path}: {error}") from None
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return image


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
