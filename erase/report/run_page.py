"""What the page of a run holds, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from ..sampling import image_path
from .cautions import cautions
from .command import run_command
from .images import inline_file, strip
from .run_figures import changes, curves, fates
from .run_folder import SIDES, RunFolder
from .scores import flat

COLUMNS, LARGE, STEPS, ROWS = 8, 5, 12, 30  # images a strip, classes shown large, snapshots, classes in one picture
RESULTS = (
    ("fa", "FA", "images asked for as the forgotten class that pass the gate and show it"),
    ("fa_top1", "FA top-1", "the same without the gate: the papers’ FA"),
    ("not_an_image", "Not an image", "of them, outside the gate: no image of any class"),
    ("ra", "RA", "images of the other classes that show theirs"),
    ("fid", "FID", "distance of the other classes to real images"),
)
MEANINGS = {
    "kid": "kernel distance of the other classes to real images, unbiased",
    "isc": "Inception score of the other classes",
    "precision": "generated images that lie among the real ones",
    "recall": "real images that lie among the generated ones",
    "f_score": "harmonic mean of the two",
    "fa_top5": "the class among the classifier’s five likeliest",
    "gate.still": "of the forgotten class’s images: still it",
    "gate.another": "of them: images of another class",
    "gate.retained": "images of all other classes that pass the gate",
    "probability": "mean probability of the class, for its images",
    "entropy": "mean entropy of the classifier’s answer for them, nats",
}
SHARES = {"fa", "fa_top1", "fa_top5", "not_an_image", "ra", "precision", "recall", "f_score", "probability"}
SHARES |= {"gate.still", "gate.another", "gate.not_an_image", "gate.retained"}
Values = dict[str, Any]


def run_sections(run: RunFolder) -> dict[str, tuple[str, Values]]:
    """By id the title of each section that there is something to show in, and what its template wants."""
    sections = {
        "asked": ("What was asked", _asked(run)),
        "result": ("Original against erased", _result(run)),
        "samples": ("Before and after", _samples(run)),
        "classes": ("Class by class", _classes(run)),
        "curves": ("Step by step", _curves(run)),
        "fading": ("Fading", _fading(run)),
        "metrics": ("Further metrics", _metrics(run)),
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
    if method:
        facts["Options"] = ", ".join(f"{key} {_plain(value)}" for key, value in method.items())
    return {"facts": facts, "command": run_command(config, run.path), "cautions": cautions(run), "progress": _progress(run)}


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


def _result(run: RunFolder) -> Values | None:
    if run.results is None:
        return None
    models = run.results["models"]
    rows = []
    for key, title, meaning in RESULTS:
        sides = [_value(key, models[side].get(key), (models[side].get("metrics") or {}).get(key)) for side in SIDES]
        change = _change(key, *(models[side].get(key) for side in SIDES))
        rows.append({"title": title, "meaning": meaning, "sides": sides, "change": change, "unit": _unit(key)})
    return {"rows": rows, "fates": fates({side: models[side] for side in SIDES})}


def _value(key: str, value: float | None, about: Mapping[str, Any] | None) -> Values:
    """A value as text, with its interval and the number of images where they are known."""
    about = about or {}
    found: Values = {"text": _number(key, value), "interval": "", "n": about.get("n")}
    if about.get("low") is not None:
        found["interval"] = f"{_number(key, about['low'])} to {_number(key, about['high'])}"
    return found


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if key in SHARES else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _unit(key: str) -> str:
    return "%" if key in SHARES else ""


def _change(key: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "–"
    if key == "fid" and before > 0:
        return f"× {after / before:.2f}"
    return f"{100 * (after - before):+.1f}".replace("-", "−") if key in SHARES else f"{after - before:+.3f}".replace("-", "−")


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
            "rank": row["rank"],
            "before": f"{100 * row['before']['value']:.1f}",
            "after": f"{100 * row['after']['value']:.1f}",
            "change": f"{100 * row['change']:+.1f}".replace("-", "−"),
            "fid": [_number("fid", distance[side]) for side in SIDES],
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
    classes = sorted((int(path.name) for path in steps[0].iterdir()), key=lambda c: (c not in run.forget, c))
    rows = []
    for label in classes:
        pictures = [strip(sorted((step / f"{label:04d}").glob("*.png"))[:4], 2) for step in steps]
        rows.append({"name": run.name(label), "kind": "forgotten" if label in run.forget else "", "pictures": pictures})
    return {"steps": [int(step.name) for step in steps], "rows": rows}


def _metrics(run: RunFolder) -> Values | None:
    """What ``erase score`` has kept, an extractor and reference a table; the classes have a section of their own."""
    tables = []
    for one in run.scores:
        columns = [flat(one["sides"].get(side, {}).get("metrics", {})) for side in SIDES]
        names = [name for name in dict.fromkeys([*columns[0], *columns[1]]) if not name.startswith("per_class_fid")]
        known = {key: meaning for key, _, meaning in RESULTS} | MEANINGS
        rows = []
        for name in names:
            sides = [column.get(name) or {"value": None} for column in columns]
            rows.append(
                {
                    "title": name,
                    "meaning": known.get(name, ""),
                    "unit": _unit(name),
                    "sides": [_value(name, side["value"], side) for side in sides],
                    "change": _change(name, *(side["value"] for side in sides)),
                }
            )
        missing = {k: why for side in one["sides"].values() for k, why in side["missing"].items()}
        tables.append({"extractor": one["extractor"], "reference": one["reference"], "rows": rows, "missing": missing})
    return {"tables": tables} if tables else None


def _grid(run: RunFolder) -> Values | None:
    path = run.path / "grid.png"
    return {"image": inline_file(path)} if path.is_file() else None


def _protocol(run: RunFolder) -> Values:
    text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
    if run.results is None:
        return {"facts": {}, "seconds": {}, "versions": {}, "config": text}
    protocol = {key.replace("_", " "): _plain(value) for key, value in run.results["protocol"].items()}
    facts = {**protocol, "device": run.results.get("device"), "config hash": run.results.get("config_hash")}
    seconds = {part: f"{value:.1f}" for part, value in run.results["seconds"].items()}
    return {"facts": facts, "seconds": seconds, "versions": run.results["versions"], "config": text}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def title_of(run: RunFolder) -> str:
    return f"Forgetting {run.names}"


def lead_of(run: RunFolder) -> str | Markup:
    """The run in one sentence."""
    if run.results is None:
        return "This run is not finished."
    original, erased = (run.results["models"][side] for side in SIDES)
    texts = [
        f"{name} from {_number(key, original[key])} to {_number(key, erased[key])}{' %' if key in SHARES else ''}"
        for key, name in (("fa", "FA"), ("ra", "RA"), ("fid", "FID"))
        if original.get(key) is not None and erased.get(key) is not None
    ]
    return f"{', '.join(texts)}." if texts else "Nothing was scored."


def default_output(run: Path) -> Path:
    return run / "report.html"
