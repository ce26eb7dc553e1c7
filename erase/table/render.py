"""The table as Markdown, CSV, JSON and, for a sensitivity, as a picture."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import as_mapping
from ..files import write_json, write_text
from ..text import markdown, plain
from .cells import Standing, compact
from .config import named, shown
from .kinds import KINDS, Content
from .plan import Plan
from .sheets import cell_sheet, sheet

HEADS = {
    "fa": "FA %", "fa_top1": "FA top-1 %", "not_an_image": "not an image %", "ra": "RA %", "fid": "FID",
    "fid_excess": "FID over retrained", "fid_ratio": "FID / original's",
}  # fmt: skip
SHORT = ("fa", "ra", "fid", "fid_excess", "fid_ratio")
BOUNDS = {"forgotten": "FA ≤ 2 %", "retained": "RA ≤ 2 down", "near_retrained": "FID ≤ 1.2 x"}
CAPTION = (
    "Mean ± standard deviation, over seeds, of the average over classes. FID over retrained: minus that of a model",
    "retrained without the class (- where the table has none). FID / original's: divided by the original model's.",
    "Cell: one run, of a row, a class and a seed. FA ≤ 2 %, RA ≤ 2 down: in how many of them FA is at most 2 %, RA at",
    "most 2 points below the original's. FID ≤ 1.2 x: at most 1.2 times the retrained model's, where there is one.",
    "s before: seconds of what is computed once for a method (mask, Fisher diagonal, replay), the most that a cell",
    "took; s: seconds of unlearning, median. Both with whatever else the machine did. Peak memory: of a whole cell",
    "with drawing and scoring, the largest.",
)
PERCENT = ("fa", "fa_top1", "not_an_image", "ra")


def render(plan: Plan, cells: Sequence[Standing], folder: Path, path: Path) -> Content:
    """Writes ``<stem>.md``, ``.csv``, ``-cells.csv``, ``.json`` and ``.png`` for the config at ``path``; what the JSON
    holds."""
    config, stem = plan.config, path.stem
    lines = [(line, [cell for cell in cells if cell.line is line]) for line in plan.lines]
    content = {
        "title": config.title,
        "called": named(path),
        "kind": config.kind,
        "config": as_mapping(config),
        **KINDS[config.kind](lines),
    }
    content["left_out"] = plan.left_out
    content["failed"] = {cell.name: cell.entry["error"] for cell in cells if cell.state == "failed"}
    warned = {c.name: c.entry["warnings"] for c in cells if c.state == "done" and c.entry.get("warnings")}
    content |= {"warnings": warned} if warned else {}
    content |= {state: sum(cell.state == state for cell in cells) for state in ("done", "stale", "missing")}
    content |= {what: sum(getattr(cell, what) for cell in cells) for what in ("diverged", "unjudged")}
    content = compact(content)
    text = short_text(content)
    if config.kind == "compare":
        text += f"\n## Class by class\n\n{_by_class(content)}"
    if config.kind == "sensitivity":
        from .picture import draw

        draw(content, folder / f"{stem}.png")
        text += f"\n![{markdown(config.title)}]({stem}.png)\n"
    text += f"\nWritten by `{shlex.join(['erase', 'table', content['called']])}`, with this folder as `--output`.\n"
    write_text(folder / f"{stem}.md", text)
    write_text(folder / f"{stem}.csv", sheet(content))
    write_text(folder / f"{stem}-cells.csv", cell_sheet(cells))
    write_json(folder / f"{stem}.json", content)
    return content


def short_text(content: Content) -> str:
    """The table as Markdown, without what is class by class."""
    title = content["config"]["title"]
    text = f"# {markdown(title)}\n\n" if title else ""
    text += {"compare": _compare, "search": _search, "sensitivity": _sensitivity}[content["kind"]](content)
    return text + "".join(f"\n{note}\n" for note in _notes(content))


def _compare(content: Content) -> str:
    short, bounds = [], kept_bounds(content["rows"])
    for row in content["rows"]:
        name, policy, kept = row["name"], row["optimizer"], row.get("counts")
        rate = row.get("forget_lr")
        rate = "" if rate is None else f"{rate:g}"
        short.append([name, policy, rate, *(_value(key, row["over_classes"].get(key)) for key in SHORT)])
        if kept:
            memory = row["peak_memory"]
            short[-1] += [f"{kept['done']} of {kept['cells']}", _seeds(row["over_classes"])]
            short[-1] += [bound(kept, key) for key in bounds]
            short[-1] += [
                "-" if row[time] is None else f"{row[time]:.0f}" for time in ("seconds_beforehand", "seconds")
            ]
            short[-1].append(f"{memory / 2**30:.2f} GiB" if memory else "-")
        else:
            short[-1] += [""] * (5 + len(bounds))
    head = ["method", "policy", "forget lr", *(HEADS[key] for key in SHORT), "cells", "seeds"]
    head += [*(BOUNDS[key] for key in bounds), "s before", "s", "peak memory"]
    return _markdown(head, short) + "\n" + "\n".join(CAPTION) + "\n"


def _by_class(content: Content) -> str:
    long = []
    for row in content["rows"]:
        name, policy = row["name"], row["optimizer"]
        for label, values in [*row["classes"].items(), ("all", row["over_classes"])]:
            head = [f"**{name}**" if label == "all" else name, policy, label]
            seeds = _seeds(values) if row.get("counts") else ""
            long.append([*head, *(_value(key, values.get(key)) for key in HEADS), seeds])
    return _markdown(["method", "policy", "class", *HEADS.values(), "seeds"], long)


def _seeds(values: Mapping[str, Any]) -> str:
    """How many seeds the means are of: those that have every class, see :func:`erase.table.numbers.over_classes`."""
    return str(max((value["n"] for value in values.values() if value), default=0))


def kept_bounds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The bounds to show: that of the FID only where a retrained model is there."""
    floor = any(row["counts"]["with_retrained"] for row in rows if row.get("counts"))
    return [key for key in BOUNDS if floor or key != "near_retrained"]


def bound(kept: Mapping[str, int], key: str) -> str:
    """In how many of the cells that are done the bound is kept, where it is not known for all also of how many."""
    known = kept["with_retrained"] if key == "near_retrained" else kept["done"]
    return str(kept[key]) if known == kept["done"] else f"{kept[key]} of {known}"


def _search(content: Content) -> str:
    table = []
    for row in content["rows"]:
        for index, trial in enumerate(row["trials"]):
            mark = "" if index != row["chosen"] else "**chosen**" if trial["good"] else "**chosen**, none being good"
            texts = [_one(100, trial[key]) for key in ("worst_fa", "mean_fa")]
            texts += [_one(100, trial["worst_ra_drop"], 2), _one(1, trial["mean_fid"], 2)]
            done = f"{trial['done']} of {trial['cells']}"
            table.append([row["row"], row["optimizer"], shown(trial["trial"]) or "preset", *texts, done, mark])
    head = ["method", "policy", "trial", "worst FA %", "mean FA %", "worst RA drop, points", "mean FID", "cells", ""]
    text = _markdown(head, table)
    text += (
        "\nChosen: the lowest mean FID among the good trials, in which every cell has FA at most 2 % and RA at most "
    )
    return text + "2 points below the original's; if there is none, the lowest mean FA.\n"


def _sensitivity(content: Content) -> str:
    table = []
    for row in content["rows"]:
        texts = [_value(key, row[key]) for key in ("fa", "ra", "fid")]
        table.append([row["row"], row["optimizer"], f"{row['value']:g}", *texts, f"{row['done']} of {row['cells']}"])
    text = _markdown(["method", "policy", content["axis"], "FA %", "RA %", "FID", "cells"], table)
    return text + "\nMean over cells, and in brackets the least and the greatest.\n"


def _notes(content: Content) -> list[str]:
    cells = len(content["failed"]) + sum(content[state] for state in ("done", "stale", "missing"))
    notes = [*(markdown(note) for note in content["config"]["notes"])]
    notes += [f"Left out: {markdown(row)}: {why}." for row, why in content["left_out"].items()]
    notes += [f"Failed: {markdown(name)}: {markdown(error)}" for name, error in content["failed"].items()]
    if content["diverged"]:
        notes.append(f"{content['diverged']} of these ended in a number that is not finite: run again only by --retry.")
    if content.get("warnings"):
        kinds = Counter(text.split(":")[0] for texts in content["warnings"].values() for text in texts)
        shown = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        notes.append(f"{len(content['warnings'])} of {cells} cells carry a warning: {shown}; the JSON names them.")
    for state, why in (("missing", "not run yet"), ("stale", "made by code that gave other numbers, and not shown")):
        notes += [f"{content[state]} of {cells} cells are {state}: {why}."] if content[state] else []
    if content["unjudged"]:
        why = "their golden run failed, so no change of the code's numbers makes them stale"
        notes.append(f"{content['unjudged']} of {cells} cells cannot be judged: {why}.")
    return notes


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(re.sub(r"([|<`])", r"\\\1", plain(text)) for text in line) + " |\n" for line in lines
    )


def _value(key: str, value: Mapping[str, Any] | None) -> str:
    """A mean with its standard deviation, or with its least and greatest."""
    if value is None:
        return "-"
    factor, digits = (100, 1) if key in PERCENT else (1, 2)
    mean = _one(factor, value["mean"], digits)
    if "low" in value:
        return f"{mean} ({_one(factor, value['low'], digits)} to {_one(factor, value['high'], digits)})"
    return mean if value["std"] is None else f"{mean} ± {_one(factor, value['std'], digits)}"


def _one(factor: float, value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"
