"""grid.png: classes by rows, original left and erased right, the same seeds, the forgotten classes marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..files import replacing
from ..sampling import image_path

CELL, GAP, LEFT, TOP = 64, 4, 120, 56
INK, PAPER, MARK, QUIET = (30, 30, 30), (255, 255, 255), (200, 40, 40), (120, 120, 120)


def draw_grid(
    samples: Path,
    output: Path,
    labels: Mapping[int, str],
    classes: Sequence[int],
    forget: Sequence[int],
    title: str,
    columns: int = 8,
) -> None:
    """Draws images 0 .. columns - 1 of each class from ``samples/original`` and ``samples/erased``."""
    sides = ("original", "erased")
    step = CELL + GAP
    half = columns * step + 4 * GAP
    width, height = LEFT + 2 * half + GAP, TOP + len(classes) * step + 2 * GAP
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    heading, text = ImageFont.load_default(18), ImageFont.load_default(15)
    pen.text((GAP * 2, GAP + 2), title, INK, heading)
    for side, name in enumerate(sides):
        pen.text((LEFT + side * half, TOP - 24), name, QUIET, text)
    for row, label in enumerate(classes):
        top = TOP + row * step
        marked = label in forget
        if marked:
            box = (GAP, top - GAP, width - GAP, top + CELL + GAP - 1)
            pen.rectangle(box, fill=(255, 236, 232), outline=MARK, width=2)
        pen.text((GAP * 3, top + CELL // 2), _fit(labels[label], 14), MARK if marked else INK, text, anchor="lm")
        if marked:
            pen.text((GAP * 3, top + CELL // 2 + 18), "forgotten", MARK, ImageFont.load_default(12), anchor="lm")
        for side, name in enumerate(sides):
            for column in range(columns):
                path = image_path(samples / name, label, column)
                if path.is_file():
                    page.paste(_cell(path), (LEFT + side * half + column * step, top))
    with replacing(output) as temporary:
        page.save(temporary)


def grid_classes(labels: Sequence[int], forget: Sequence[int], nearest: Sequence[int], most: int = 20) -> list[int]:
    """All classes where they fit; else the forgotten, their 4 nearest, and 5 others spread over the rest."""
    if len(labels) <= most:
        return list(labels)
    near = [label for label in nearest if label not in forget][:4]
    rest = [label for label in labels if label not in forget and label not in near]
    others = rest if len(rest) <= 5 else [rest[(2 * i + 1) * len(rest) // 10] for i in range(5)]
    return [*forget, *near, *others]


def _cell(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    filter_ = Image.Resampling.NEAREST if CELL % image.width == 0 else Image.Resampling.LANCZOS
    return image.resize((CELL, CELL), filter_)


def _fit(name: str, limit: int) -> str:
    name = name.split(",")[0]
    return name if len(name) <= limit else name[: limit - 1] + "…"
