"""What the page of a run holds, section by section."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from ..sampling import image_path
from .cautions import cautions
from .command import run_command
from .images import inline_file, strip
from .run_figures import changes, curves, signed
from .run_folder import SIDES, RunFolder
from .run_scores import metrics, number, result
from .scores import SHARES

COLUMNS, LARGE, STEPS, ROWS = 8, 5, 12, 30  # images a strip, classes shown large, snapshots, classes in one picture
Values = dict[str, Any]


def run_sections(run: RunFolder) -> dict[str, tuple[str, Values]]:
    """By id the title of each section that there is something to show in, and what its template wants."""
    sections = {
        "asked": ("What was asked", _asked(run)),
        "result": ("Original against erased", result(run)),
        "samples": ("Before and after", _samples(run)),
        "classes": ("Class by class", _classes(run)),
        "curves": ("Step by step", _curves(run)),
        "fading": ("Fading", _fading(run)),
        "metrics": ("Further metrics", metrics(run)),
        "grid": ("All images side by side", _grid(run)),
        "protocol": ("Protocol", _protocol(run)),
    }
    return {id_: (title, values) for id_, (title, values) in sections.items() if values}


def _asked(run: RunFolder) -> Values:
    config = run.config
    method = {key: value for key, value in config["method"].items() if key != "name" and value is not None}
    plan = config["unlearn"]
    facts = {
        "Forgotten": run.names,
        "Model": config["model"]["source"],
        "Data": (config.get("data") or {}).get("source") or "the model’s own",
        "Method": config["method"]["name"],
        "Optimizer states": config["optimizer"].get("policy"),
        "Seed": config.get("seed"),
        "Rounds": f"{plan.get('rounds')}, then {plan.get('finish')} of retain alone",
    }
    command = run_command(config, run.path)
    if run.results is None:  # it must find this folder to continue
        command += f" --output {shlex.quote(str(run.path))}"
    if method:
        facts["Options"] = ", ".join(f"{key} {_plain(value)}" for key, value in method.items())
    return {
        "facts": facts,
        "command": command,
        "cautions": cautions(run),
        "progress": _progress(run),
    }


def _progress(run: RunFolder) -> str | None:
    """How far a run that is not finished has come."""
    if run.results is not None:
        return None
    plan = run.config["unlearn"]
    if not run.steps.rows:
        return "It has taken no step yet."
    last = run.steps.rows[-1]
    rounds = (plan.get("rounds") or 0) + (plan.get("finish") or 0)
    return f"It has taken {last['step'] + 1} steps and is in round {last.get('round', 0) + 1} of {rounds}."


def _samples(run: RunFolder) -> Values | None:
    """The forgotten classes and their neighbours, large; without a ranking those that changed most."""
    shown = {int(path.name) for path in run.folders("samples/original")}
    if not shown:
        return None
    ranked = run.neighbours()
    near = sorted((row for row in ranked if row["near"]), key=lambda row: row["rank"])
    others = near or [row for row in ranked if not row["forgotten"]]
    order = [*run.forget, *(row["index"] for row in others)] if ranked else [*run.forget, *sorted(shown)]
    rank = {row["index"]: row["rank"] for row in near}
    chosen = [label for label in dict.fromkeys(order) if label in shown][: max(LARGE, len(run.forget) + 3)]
    rows = []
    for label in chosen[: 3 * LARGE]:
        sides = {}
        for side in SIDES:
            folder = run.path / "samples" / side
            sides[side] = strip([image_path(folder, label, number) for number in range(COLUMNS)], COLUMNS // 2)
        kind = "forgotten" if label in run.forget else f"nearest {rank[label]}" if label in rank else ""
        rows.append({"name": run.name(label), "kind": kind, "sides": sides})
    return {"rows": rows, "ranked": bool(near)}


def _classes(run: RunFolder) -> Values | None:
    rows = run.neighbours()
    if not rows:
        return None
    names = {row["index"]: run.name(row["index"]) for row in rows}
    far: dict[str, list[Any]] = {side: [] for side in SIDES}
    for one in run.scores:
        for side in SIDES:
            far[side].append(one["sides"].get(side, {}).get("metrics", {}).get("per_class_fid") or {})
    distances = [{side: _first(far[side], str(row["index"])) for side in SIDES} for row in rows]
    main = [row for i, row in enumerate(rows) if i < ROWS or row["forgotten"] or row["near"]]
    table = [
        {
            "name": names[row["index"]],
            "kind": "forgotten" if row["forgotten"] else f"nearest {row['rank']}" if row["near"] else "",
            "before": f"{100 * row['before']['value']:.1f}",
            "after": f"{100 * row['after']['value']:.1f}",
            "change": signed(100 * row["change"]),
            "fid": ["–" if distance[side] is None else f"{distance[side]:.2f}" for side in SIDES],
        }
        for row, distance in zip(rows, distances, strict=True)
    ]
    return {
        "picture": changes(main, names),
        "left_out": len(rows) - len(main),
        "rows": table,
        "ranked": any(row["rank"] for row in rows),
        "intervals": rows[0]["after"]["low"] is not None,
        "fid": any(value is not None for distance in distances for value in distance.values()),
    }


def _first(found: list[dict[str, Any]], label: str) -> float | None:
    return next((values[label]["value"] for values in found if label in values), None)


def _curves(run: RunFolder) -> Values | None:
    pictures = curves(run.steps.rows)
    return {"pictures": list(pictures.values()), "steps": len(run.steps.rows)} if pictures else None


def _fading(run: RunFolder) -> Values | None:
    steps = run.folders("snapshots")
    if not steps:
        return None
    if len(steps) > STEPS:
        steps = [steps[round(i * (len(steps) - 1) / (STEPS - 1))] for i in range(STEPS)]
    classes = sorted(
        (int(path.name) for path in steps[0].iterdir() if path.name.isdecimal()), key=lambda c: (c not in run.forget, c)
    )
    rows = []
    for label in classes:
        pictures = [strip(sorted((step / f"{label:04d}").glob("*.png"))[:4], 2) for step in steps]
        rows.append({"name": run.name(label), "kind": "forgotten" if label in run.forget else "", "pictures": pictures})
    return {"steps": [int(step.name) for step in steps], "rows": rows}


def _grid(run: RunFolder) -> Values | None:
    path = run.path / "grid.png"
    return {"image": inline_file(path)} if path.is_file() else None


def _protocol(run: RunFolder) -> Values:
    text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
    if run.results is None:
        return {"facts": {}, "seconds": {}, "versions": {}, "config": text}
    protocol = {key.replace("_", " "): _plain(value) for key, value in run.results["protocol"].items()}
    facts = {**protocol, "device": run.results.get("device"), "config hash": run.results.get("config_hash")}
    parts = {**dict.fromkeys(("precompute", "unlearn", "sample", "score")), **run.results["seconds"]}
    seconds = {part: f"{value:.1f}" for part, value in parts.items() if value is not None}
    return {"facts": facts, "seconds": seconds, "versions": run.results["versions"], "config": text}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def title_of(run: RunFolder) -> str:
    return f"Forgetting {run.names}"


def lead_of(run: RunFolder) -> str:
    """The run in one sentence."""
    if run.results is None:
        return "This run is not finished."
    original, erased = (run.results["models"][side] for side in SIDES)
    texts = [
        f"{name} from {number(key, original[key])} to {number(key, erased[key])}{' %' if key in SHARES else ''}"
        for key, name in (("fa", "FA"), ("ra", "RA"), ("fid", "FID"))
        if original.get(key) is not None and erased.get(key) is not None
    ]
    return f"{', '.join(texts)}." if texts else "Nothing was scored."
