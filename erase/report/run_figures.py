"""The pictures of a run's page: what became of the class, every class before and after, and the curves of the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .axes import Scale, limits, spans_decades, spread_apart
from .svg import Svg

WIDTH, ROW, LETTER = 460.0, 21.0, 6.1  # LETTER: roughly the width of one, to tell what fits
POINTS, WINDOWS = 400, 30
OBJECTIVES = {"forget": "s0", "retain": "s1", "joint": "s2"}
TITLES = {
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "weight": "weight of the objective",
    "forget_mse": "noise error of the forgotten class",
}
FATES = (
    ("shown", "still the class"),
    ("other", "another class"),
    ("none", "no image of any class"),
)
Rows = Sequence[Mapping[str, Any]]


def fates(models: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """What the images asked for as the forgotten class show, before and after, as parts of a whole."""
    if any(models[side][key] is None for side in models for key in ("fa", "not_an_image")):
        return None
    left, bar, top = 62.0, 24.0, 22.0
    svg = Svg(WIDTH, top + 2 * (bar + 8) + 30, "What the images asked for as the forgotten class show")
    x = Scale(0, 100, left, WIDTH - 14)
    bottom = top + 2 * (bar + 8)
    svg.bottom_axis(x, top - 4, bottom, "% of the images asked for")
    place = left
    for kind, name in FATES:
        svg.add("rect", x=place, y=3, width=10, height=10, class_=kind)
        svg.write(place + 15, 12, name, "label")
        place += 15 + LETTER * len(name) + 18
    for i, (side, row) in enumerate(models.items()):
        y = top + i * (bar + 8)
        svg.write(left - 8, y + bar / 2 + 4, side, "label", "end")
        shares = (row["fa"], max(0.0, 1 - row["fa"] - row["not_an_image"]), row["not_an_image"])
        start = 0.0
        for (kind, name), share in zip(FATES, shares, strict=True):
            wide = x(100 * share) - x(0)
            text = f"{100 * share:.1f} %"
            svg.add("rect", title=f"{side}: {name} {text}", x=x(start), y=y, width=wide, height=bar, class_=kind)
            if wide > LETTER * len(text) + 8:
                svg.write(x(start) + wide / 2, y + bar / 2 + 4, text, f"on-{kind}", "middle")
            start += 100 * share
    return svg.markup()


def changes(rows: Rows, names: Mapping[int, str]) -> Markup | None:
    """A line a class from its accuracy before (hollow) to after (filled), the largest loss first.

    The axis is that of the retained classes; what falls below it leaves as an arrow.
    """
    if not rows:
        return None
    left, right, top = min(150.0, 14 + LETTER * max(len(names[row["index"]]) for row in rows)), WIDTH - 52, 20.0
    bottom = top + ROW * len(rows)
    svg = Svg(WIDTH, bottom + 36, "Accuracy of each class before and after")
    x = Scale(_least(rows), 100, left, right)
    svg.bottom_axis(x, top, bottom, "images that pass the gate and are called right, %")
    svg.write(WIDTH - 4, 12, "change", "tick", "end")
    for i, row in enumerate(rows):
        kind = "forgotten" if row["forgotten"] else "near" if row["near"] else "other-class"
        _change(svg, x, top + ROW * (i + 0.5), row, names[row["index"]], kind)
    return svg.markup()


def _least(rows: Rows) -> float:
    """Where the axis begins: a ten below every retained class, at most; 0 where one has lost so much."""
    kept = [row for row in rows if not row["forgotten"]] or rows
    ends = [row[side][end] for row in kept for side in ("before", "after") for end in ("value", "low")]
    least = 100 * min(end for end in ends if end is not None)
    return 0.0 if least < 50 else 10.0 * ((least - 1) // 10)


def _change(svg: Svg, x: Scale, y: float, row: Mapping[str, Any], name: str, kind: str) -> None:
    before, after = (100 * row[side]["value"] for side in ("before", "after"))
    limit = int((x.start - 10) / LETTER)
    svg.write(x.start - 10, y + 4, name if len(name) <= limit else f"{name[: limit - 1]}…", f"label t-{kind}", "end")
    svg.write(WIDTH - 4, y + 4, signed(after - before), f"label t-{kind}", "end")
    if row["after"]["low"] is not None and 100 * row["after"]["low"] >= x.low:
        svg.line(x(100 * row["after"]["low"]), y, x(100 * row["after"]["high"]), y, f"whisker l-{kind}")
    svg.line(x(max(before, x.low)), y, x(max(after, x.low)), y, f"change l-{kind}")
    if before >= x.low:
        svg.dot(x(before), y, f"before l-{kind}", 3.6, f"{name} before: {before:.1f} %")
    if after >= x.low:
        svg.dot(x(after), y, f"after f-{kind}", 3.9, f"{name} after: {after:.1f} %")
        return
    svg.path([(x.start - 2, y), (x.start + 8, y - 4.5), (x.start + 8, y + 4.5)], f"f-{kind}", close=True)
    svg.write(x.start + 14, y - 4, f"to {after:.1f}", f"label halo t-{kind}")


def signed(value: float, digits: int = 1) -> str:
    """With its sign, and none for what is rounded to nothing."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def curves(rows: Rows) -> dict[str, Markup]:
    """By title a picture of each value that the steps report: the loss of each objective apart, others together.

    What never changes (a weight of 1) is left out.
    """
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    keys = list(dict.fromkeys(key for row in rows for key in row))
    order: list[str] = [key for key in ("loss", "grad_norm", "lr") if key in keys]
    order += [key for key in keys if key not in (*order, "step", "round", "objective")]
    last = max((row["step"] for row in rows), default=0)
    found: dict[str, Markup] = {}
    for key in order:
        series = {
            o: [(row["step"], row[key]) for row in rows if row["objective"] == o and key in row] for o in objectives
        }
        series = {objective: points for objective, points in series.items() if points}
        if key not in ("loss", "lr") and all(len({value for _, value in points}) == 1 for points in series.values()):
            continue
        if key == "loss":
            found |= {f"{o} loss": _curve(f"{o} loss", {o: points}, last) for o, points in series.items()}
        else:
            title = TITLES.get(key, key.replace("_", " "))
            found[title] = _curve(title, series, last)
    return found


def _curve(title: str, series: Mapping[str, Sequence[tuple[int, float]]], last: int) -> Markup:
    width, height, left, top, bottom = 340.0, 206.0, 50.0, 26.0, 168.0
    named = len(series) > 1
    right = width - (LETTER * max(map(len, series)) + 12 if named else 12)
    svg = Svg(width, height, f"{title} over the steps")
    values = [value for points in series.values() for _, value in points]
    log = spans_decades(values)
    x = Scale(0, max(last, 1), left, right)
    y = Scale(*limits(values, log), bottom, top, log)
    svg.write(left - 44, 13, title + (" (log)" if log else ""), "heading")
    svg.left_axis(y, left, right)
    svg.bottom_axis(x, bottom, bottom, "step", [t for t in x.ticks() if t == int(t)])
    ends = []
    for objective, points in series.items():
        kind = OBJECTIVES.get(objective, "s3")
        means = smooth(points)
        svg.path([(x(step), y(value)) for step, value in thin(points)], f"raw {kind}")
        if len(points) == 1:
            svg.dot(x(points[0][0]), y(points[0][1]), f"dot-s {kind}", 2)
        if means:
            svg.path([(x(step), y(value)) for step, value in thin(means)], f"mean {kind}")
        ends.append((objective, kind, x(points[-1][0]), y((means or points)[-1][1])))
    if named:
        places = spread_apart([end for *_, end in ends], 13, top, bottom)
        for (objective, kind, place, _), down in zip(ends, places, strict=True):
            svg.write(place + 6, down + 4, objective, f"label halo t-{kind}")
    return svg.markup()


def smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The mean of the points around each, a thirtieth of all of them; none where they are few.

    The ends, which have no such neighbours on one side, are left out.
    """
    half = len(points) // WINDOWS // 2
    if half == 0:
        return []
    found = []
    for i in range(half, len(points) - half):
        around = [value for _, value in points[i - half : i + half + 1]]
        found.append((points[i][0], sum(around) / len(around)))
    return found


def thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """No more points than a picture can show: of each part of them the least and the greatest, so that peaks stay."""
    if len(points) <= POINTS:
        return list(points)
    size = -(-len(points) // (POINTS // 2))
    found = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        found += sorted(ends)
    return found
