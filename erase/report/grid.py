"""Pages of images: rows of classes, panels side by side, the forgotten classes marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..files import replacing
from ..sampling import image_path
from ..text import plain

CELL, GAP, LEFT, TOP = 64, 4, 120, 56
TITLE = 160  # characters
INK, PAPER, MARK, QUIET = (30, 30, 30), (255, 255, 255), (200, 40, 40), (120, 120, 120)


@dataclass(frozen=True)
class Row:
    """A line of a page: its name, and whether it shows what is to be forgotten."""

    name: str
    forgotten: bool = False


@dataclass(frozen=True)
class Panel:
    """A block of columns under one heading: for each row the files to show. A file that is not there leaves a gap."""

    name: str
    images: Sequence[Sequence[Path]]

    @property
    def columns(self) -> int:
        return max((len(row) for row in self.images), default=0)


def draw_panels(rows: Sequence[Row], panels: Sequence[Panel], output: Path, title: str, gap: int = 4 * GAP) -> None:
    """Writes a PNG of ``panels`` side by side, ``gap`` pixels apart."""
    step, title = CELL + GAP, plain(title)[:TITLE]
    lefts = [LEFT]
    for panel in panels:
        lefts.append(lefts[-1] + panel.columns * step + gap)
    heading, text, small = (ImageFont.load_default(size) for size in (18, 15, 12))
    width = max(lefts[-1] + GAP, int(heading.getlength(title)) + 4 * GAP)
    height = TOP + len(rows) * step + 2 * GAP
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP * 2, GAP + 2), title, INK, heading)
    for panel, left in zip(panels, lefts, strict=False):
        pen.text((left, TOP - 24), plain(panel.name)[:TITLE], QUIET, text)
    for number, row in enumerate(rows):
        top = TOP + number * step
        if row.forgotten:
            box = (GAP, top - GAP, width - GAP, top + CELL + GAP - 1)
            pen.rectangle(box, fill=(255, 236, 232), outline=MARK, width=2)
            pen.text((GAP * 3, top + CELL // 2 + 18), "forgotten", MARK, small, anchor="lm")
        colour = MARK if row.forgotten else INK
        pen.text((GAP * 3, top + CELL // 2), _fit(row.name, 14), colour, text, anchor="lm")
        for panel, left in zip(panels, lefts, strict=False):
            for column, path in enumerate(panel.images[number]):
                if path.is_file():
                    page.paste(_cell(path), (left + column * step, top))
    with replacing(output) as temporary:
        page.save(temporary, "PNG")


def draw_grid(
    samples: Path,
    output: Path,
    labels: Mapping[int, str],
    classes: Sequence[int],
    forget: Sequence[int],
    title: str,
    columns: int = 8,
) -> None:
    """Before and after: images 0 .. columns - 1 of each class from ``samples/original`` and ``samples/erased``."""
    panels = [class_panel(side, samples / side, classes, columns) for side in ("original", "erased")]
    draw_panels(class_rows(labels, classes, forget), panels, output, title)


def class_panel(name: str, folder: Path, classes: Sequence[int], columns: int) -> Panel:
    """Images 0 .. columns - 1 of each class in ``folder``."""
    return Panel(name, [[image_path(folder, label, column) for column in range(columns)] for label in classes])


def class_rows(labels: Mapping[int, str], classes: Sequence[int], forget: Sequence[int]) -> list[Row]:
    return [Row(labels[label], label in forget) for label in classes]


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
    name = plain(name).split(",")[0]
    return name if len(name) <= limit else name[: limit - 1] + "…"
