"""Scores as single values, under torch-fidelity's names, and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SHARES = {"fa", "fa_top1", "fa_top5", "not_an_image", "ra", "precision", "recall", "f_score", "probability"}
SHARES |= {f"gate.{name}" for name in ("still", "another", "not_an_image", "retained")}


def flat(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every single value by its name: ``fid``, ``precision``, ``gate.still``, ``per_class_fid.3``."""
    found = {}
    for metric, value in values.items():
        if metric == "neighbours":
            continue
        if "value" in value:
            found[metric] = value
        else:
            found |= {(key if metric == "prc" else f"{metric}.{key}"): part for key, part in value.items()}
    return found


def aliases(values: dict[str, Any]) -> dict[str, float]:
    """The values under torch-fidelity's names."""
    found = {}
    if "fid" in values:
        found["frechet_inception_distance"] = values["fid"]["value"]
    if "kid" in values:
        found["kernel_inception_distance_mean"] = values["kid"]["mean"]
        found["kernel_inception_distance_std"] = values["kid"]["std"]
    if "isc" in values:
        found["inception_score_mean"], found["inception_score_std"] = values["isc"]["value"], values["isc"]["std"]
    for name in ("precision", "recall", "f_score"):
        if "prc" in values:
            found[name] = values["prc"][name]["value"]
    return found


def score_table(rows: Sequence[dict[str, Any]]) -> str:
    """Metrics down, sets across; below, the neighbours, what is missing, and warnings."""
    lines = []
    columns = [flat(row["metrics"]) for row in rows]
    names = list(dict.fromkeys(name for column in columns for name in column))
    width = max([len(name) for name in names] + [8])
    heads = [row["name"] if len(row["name"]) <= 24 else f"...{row['name'][-21:]}" for row in rows]
    lines.append(f"{'':{width}}" + "".join(f"  {head:>26}" for head in heads))
    for name in names:
        lines.append(f"{name:{width}}" + "".join(f"  {_cell(name, column.get(name)):>26}" for column in columns))
    for row in rows:
        if "neighbours" in row["metrics"]:
            lines += ["", f"{row['name']}: accuracy of each class", *_neighbour_lines(row["metrics"]["neighbours"])]
    for row in rows:
        lines += [f"missing: {row['name']}: {metric}: {why}" for metric, why in row["missing"].items()]
        lines += [f"note: {row['name']}: {note}" for note in row["notes"]]
    return "\n".join(lines)


def _cell(name: str, value: dict[str, Any] | None) -> str:
    """A share in percent, anything else as it is, with its interval."""
    if value is None or value["value"] is None:
        return "-"
    factor, unit = (100, " %") if name in SHARES else (1, "")
    text = f"{factor * value['value']:.4g}{unit}"
    return text if value["low"] is None else f"{text} ({factor * value['low']:.3g} to {factor * value['high']:.3g})"


def _neighbour_lines(table: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for row in table:
        mark = "forgotten" if row["forgotten"] else f"neighbour {row['rank']}" if row["near"] else ""
        name = str(row["name"])[:24]
        before, after = (100 * row[side]["value"] for side in ("before", "after"))
        lines.append(f"  {name:24} {before:6.1f} % {after:6.1f} % {100 * row['change']:+7.1f}  {mark}".rstrip())
    return lines
