"""The pictures of a table's page: every cell as a dot, and FA and FID against a swept setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from .axes import Scale, limits, spans_decades, spread_apart
from .svg import SERIES, Svg

WIDTH, LETTER, NAME, STRIP = 460.0, 6.1, 17.0, 24.0
MANY = 6  # dots at one place that are drawn as one, with their number


@dataclass(frozen=True)
class Dot:
    value: float
    title: str
    kind: str = "cell"


@dataclass(frozen=True)
class Strip:
    """A row of dots under its name; ``note`` stands at the right, such as mean and deviation."""

    name: str
    note: str = ""
    dots: Sequence[Dot] = field(default_factory=list)


def strips(
    rows: Sequence[Strip], title: str, ends: tuple[float, float] | None = None, mark: tuple[float, str] | None = None
) -> Markup | None:
    """Dots along one axis, a strip a row. ``ends`` fixes the axis; ``mark``: a value to compare with, and its name."""
    values = [dot.value for row in rows for dot in row.dots] + ([mark[0]] if mark else [])
    if not any(row.dots for row in rows):
        return None
    log = ends is None and spans_decades(values, 20)
    top, step = 22.0 if mark else 8.0, NAME + STRIP
    bottom = top + step * len(rows)
    svg = Svg(WIDTH, bottom + 36, title)
    notes = max(len(row.note) for row in rows)
    x = Scale(*(ends or limits(values, log)), 12, WIDTH - 12 - (LETTER * notes + 12 if notes else 0), log)
    svg.bottom_axis(x, top, bottom, title + (" (log)" if log else ""))
    if mark:
        place = x(mark[0])
        svg.line(place, top - 4, place, bottom, "mark")
        anchor = "start" if place < WIDTH / 2 else "end"
        svg.write(place + (4 if anchor == "start" else -4), top - 8, mark[1], "tick", anchor)
    for i, row in enumerate(rows):
        start = top + step * i
        if i:
            svg.line(x.start, start, x.end, start, "grid")
        middle = start + NAME + STRIP / 2 - 1
        svg.write(12, start + 13, _short(row.name, int((x.end - x.start) / LETTER)), "label halo")
        svg.write(WIDTH - 4, middle + 4, row.note, "note", "end")
        for group in _together(row.dots, x):
            _draw(svg, x(group[0].value), middle, group)
    return svg.markup()


def _together(dots: Sequence[Dot], x: Scale) -> list[list[Dot]]:
    """Dots that would cover each other; last, and so on top, those with a chosen one."""
    groups: dict[int, list[Dot]] = {}
    for dot in sorted(dots, key=lambda dot: dot.value):
        groups.setdefault(round(x(dot.value) / 3), []).append(dot)
    return sorted(groups.values(), key=lambda group: any(dot.kind.startswith("chosen") for dot in group))


def _draw(svg: Svg, x: float, y: float, group: Sequence[Dot]) -> None:
    """Dots of one place above each other, or one for them all with their number."""
    if len(group) > MANY:
        svg.dot(x, y, f"dot many {group[0].kind}", 10.5, "\n".join(dot.title for dot in group))
        svg.write(x, y + 4, str(len(group)), "count", "middle")
        return
    gap = min(4.0, (STRIP - 8) / max(1, len(group) - 1))
    for i, dot in enumerate(sorted(group, key=lambda dot: dot.kind.startswith("chosen"))):
        svg.dot(x, y + gap * (i - (len(group) - 1) / 2), f"dot {dot.kind}", title=dot.title)


def sweep(content: Mapping[str, Any], key: str, title: str, factor: float = 1.0) -> Markup | None:
    """The mean over cells against the swept setting, in a band from the least to the greatest."""
    names = list(dict.fromkeys((row["row"], row["optimizer"]) for row in content["rows"]))
    lines = {name: [r for r in content["rows"] if (r["row"], r["optimizer"]) == name and r[key]] for name in names}
    lines = {name: rows for name, rows in lines.items() if rows}
    if not lines:
        return None
    width, left, top, bottom = WIDTH, 44.0, 28.0, 250.0
    texts = {name: _short(" ".join(name), 20) for name in lines}
    right = width - (LETTER * max(map(len, texts.values())) + 12)
    svg = Svg(width, bottom + 38, f"{title} against {content['axis']}")
    values = [factor * row[key][end] for rows in lines.values() for row in rows for end in ("low", "high")]
    original = content["original_fid"] if key == "fid" else None
    values += [original] if original is not None else []
    log = key == "fid" and spans_decades(values, 10)
    ends = (-3.0, 103.0) if factor == 100 else limits(values, log)
    places = sorted({row["value"] for rows in lines.values() for row in rows})
    x = Scale(*limits(places, True, 0.04), left, right, True)
    y = Scale(*ends, bottom, top, log)
    svg.write(4, 13, title + (" (log)" if log else ""), "heading")
    svg.left_axis(y, left, right)
    svg.bottom_axis(x, bottom, bottom, f"{content['axis']} (log)", places if len(places) <= 8 else None)
    if original is not None:
        svg.line(left, y(original), right, y(original), "mark")
        svg.write(left + 4, y(original) - 4, "original", "tick halo")
    for i, rows in enumerate(lines.values()):
        low, high = ([(x(row["value"]), y(factor * row[key][end])) for row in rows] for end in ("low", "high"))
        svg.path([*low, *reversed(high)], f"band s{i % SERIES}", close=True)
    ends_at = []
    for i, ((row, policy), rows) in enumerate(lines.items()):
        points = [(x(one["value"]), y(factor * one[key]["mean"])) for one in rows]
        svg.path(points, f"mean s{i % SERIES}")
        for (px, py), one in zip(points, rows, strict=True):
            text = f"{row} {policy}, {one['value']:g}: {factor * one[key]['mean']:.4g}"
            svg.dot(px, py, f"dot-s s{i % SERIES}", 3.2, text)
        ends_at.append(points[-1][1])
    for i, (name, place) in enumerate(zip(lines, spread_apart(ends_at, 13, top, bottom), strict=True)):
        svg.write(right + 8, place + 4, texts[name], f"label t-s{i % SERIES}")
    return svg.markup()


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(1, limit - 1)] + "…"
