"""Pictures as SVG inside a page: they follow its colours, light or dark, through classes of its style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from .axes import Scale, tick_texts

SERIES = 7  # colours of the style sheet, s0 to s6


class Svg:
    """An ``<svg>`` of ``width`` x ``height`` units that scales with its place; ``label`` says what it shows."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height = width, height
        box = {"viewBox": f"0 0 {_text(width)} {_text(height)}", "role": "img", "aria-label": label}
        self.root = ElementTree.Element("svg", box)

    def add(self, tag: str, text: str | None = None, title: str | None = None, **attributes: Any) -> None:
        """An element: ``class_`` stands for class, ``text_anchor`` for text-anchor; ``title`` shows on hovering."""
        named = {key.rstrip("_").replace("_", "-"): _text(value) for key, value in attributes.items()}
        element = ElementTree.SubElement(self.root, tag, named)
        element.text = text
        if title is not None:
            ElementTree.SubElement(element, "title").text = title

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def write(self, x: float, y: float, text: str, class_: str = "", anchor: str = "start") -> None:
        self.add("text", text, x=x, y=y, class_=class_, text_anchor=anchor)

    def dot(self, x: float, y: float, class_: str, r: float = 3.5, title: str | None = None) -> None:
        self.add("circle", title=title, cx=x, cy=y, r=r, class_=class_)

    def path(self, points: Sequence[tuple[float, float]], class_: str, close: bool = False) -> None:
        text = "M" + "L".join(f"{_text(x)} {_text(y)}" for x, y in points) + ("Z" if close else "")
        self.add("path", d=text, class_=class_)

    def bottom_axis(
        self, x: Scale, top: float, bottom: float, title: str, ticks: Sequence[float] | None = None
    ) -> None:
        """Ticks of ``x`` under ``bottom``, thin lines up to ``top``, and the axis's title with its unit."""
        values = list(x.ticks() if ticks is None else ticks)
        for value, text in zip(values, tick_texts(values), strict=True):
            self.line(x(value), top, x(value), bottom, "grid")
            self.write(x(value), bottom + 14, text, "tick", "middle")
        self.line(x.start, bottom, x.end, bottom, "axis")
        self.write((x.start + x.end) / 2, bottom + 29, title, "title", "middle")

    def left_axis(self, y: Scale, left: float, right: float) -> None:
        values = y.ticks()
        for value, text in zip(values, tick_texts(values), strict=True):
            self.line(left, y(value), right, y(value), "grid")
            self.write(left - 6, y(value) + 3.5, text, "tick", "end")

    def markup(self) -> Markup:
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))


def _text(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
