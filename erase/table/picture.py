"""The picture of a sensitivity: FA and FID against the swept setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import replacing

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"


def draw(content: Mapping[str, Any], output: Path) -> None:
    """One line a row: the mean over cells in a band from the least to the greatest; dashed: the original's FID.

    A cross at the top of the FID: a cell there failed, so that the mean is of the others, if there are any.
    """
    from matplotlib.figure import Figure  # not pyplot, which opens windows and keeps state

    figure = Figure(figsize=(9.5, 4.2), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys((row["row"], row["optimizer"]) for row in content["rows"]))
    for index, name in enumerate(names):
        mine = [row for row in content["rows"] if (row["row"], row["optimizer"]) == name]
        _curve(left, mine, "fa", 100.0, index, " ".join(name))
        _curve(right, mine, "fid", 1.0, index, " ".join(name))
    original = content["original_fid"]
    if original is not None:
        right.axhline(original, color="#555555", linestyle=(0, (6, 3)), linewidth=1.2, label="original model")
    values = sorted({row["value"] for row in content["rows"]})
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xticks(values, [f"{value:g}".replace("e-0", "e-") for value in values], fontsize=8)
        panel.minorticks_off()
        panel.set_xlabel(content["axis"])
        panel.grid(color="#e2e2e2", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    left.set(ylim=(-4, 104), ylabel="FA %")
    left.set_title("images that still show the forgotten class", fontsize=10, loc="left")
    right.set(ylabel="FID")
    right.set_title("distance of the other classes to real images", fontsize=10, loc="left")
    _log_where_wide(right, [row["fid"] for row in content["rows"] if row["fid"]], original)
    _crosses(right, content["rows"], names)
    handles, labels = right.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(handles) if len(handles) <= 4 else 3, frameon=False
        )
    with replacing(output) as temporary:
        figure.savefig(temporary, format="png")


def _curve(panel: Any, rows: Sequence[Mapping[str, Any]], metric: str, factor: float, index: int, name: str) -> None:
    rows = [row for row in rows if row[metric]]
    places = [row["value"] for row in rows]
    mean, low, high = ([factor * row[metric][end] for row in rows] for end in ("mean", "low", "high"))
    colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
    panel.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
    marker = {"marker": MARKERS[index % len(MARKERS)], "markersize": 5}
    panel.plot(places, mean, color=colour, linestyle=style, linewidth=1.8, label=name, **marker)


def _crosses(panel: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[tuple[str, str]]) -> None:
    """Those at one value stand beside each other. In axes' height, so that they do not stretch the scale."""
    label = "failed, in the line's colour"
    at: dict[float, int] = {}
    for row in rows:
        if row.get("failed"):
            beside = at.setdefault(row["value"], 0)
            at[row["value"]] += 1
            colour = COLOURS[names.index((row["row"], row["optimizer"])) % len(COLOURS)]
            place = panel.get_xaxis_transform()
            look = {"marker": "x", "color": colour, "linestyle": "", "markersize": 7, "markeredgewidth": 2}
            panel.plot([row["value"]], [0.97 - 0.05 * beside], transform=place, label=label, clip_on=False, **look)
            label = "_"


def _log_where_wide(panel: Any, fids: Sequence[Mapping[str, float]], original: float | None) -> None:
    """A log scale, its numbers written out, where the distances span more than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ends = [value for fid in fids for value in (fid["low"], fid["high"])] + ([original] if original else [])
    if ends and min(ends) > 0 and max(ends) > 10 * min(ends):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(ends) < 1000 * min(ends) else (1,)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
