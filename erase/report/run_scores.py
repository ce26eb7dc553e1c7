"""The scores of a run as rows of text: original, erased, and the change."""

from __future__ import annotations

from typing import Any

from .run_figures import fates, signed
from .run_folder import SIDES, RunFolder
from .scores import SHARES, flat

RESULTS = (
    ("fa", "FA", "images asked for as the forgotten class that pass the gate and show it"),
    ("fa_top1", "FA top-1", "the same without the gate: the papers’ FA"),
    ("not_an_image", "Not an image", "of them, outside the gate: no image of any class"),
    ("ra", "RA", "images of the other classes that show theirs"),
    ("fid", "FID", "distance of the other classes to real images"),
)
FURTHER = {
    "kid": ("KID", "kernel distance of the other classes to real images, unbiased"),
    "isc": ("Inception score", "of the other classes"),
    "precision": ("Precision", "generated images that lie among the real ones"),
    "recall": ("Recall", "real images that lie among the generated ones"),
    "f_score": ("F-score", "harmonic mean of the two"),
    "fa_top5": ("FA top-5", "the class among the classifier’s five likeliest"),
    "gate.another": ("Another class", "images of the forgotten class that show another one"),
    "gate.retained": ("Retained pass", "images of all other classes that pass the gate"),
    "probability": ("Probability", "mean probability of the class, for its images"),
    "entropy": ("Entropy", "of the classifier’s answer for them, mean in nats"),
}
SAME = {"gate.still": "fa", "gate.not_an_image": "not_an_image"}  # the same value under another name
Values = dict[str, Any]


def result(run: RunFolder) -> Values | None:
    if run.results is None:
        return None
    models = [run.results["models"][side] for side in SIDES]
    rows = []
    for key, title, meaning in RESULTS:
        sides = [{**((model.get("metrics") or {}).get(key) or {}), "value": model.get(key)} for model in models]
        rows.append(_row(key, title, meaning, sides))
    return {"rows": rows, "fates": fates(dict(zip(SIDES, models, strict=True)))}


def metrics(run: RunFolder) -> Values | None:
    """What ``erase score`` has kept, a table for each extractor and reference.

    Per-class values have a section of their own; what the run's own results hold is not repeated.
    """
    tables = []
    for one in run.scores:
        columns = [flat(one["sides"].get(side, {}).get("metrics", {})) for side in SIDES]
        names = {key: (title, meaning) for key, title, meaning in RESULTS} | FURTHER
        rows = []
        for key in dict.fromkeys(key for column in columns for key in column):
            sides = [column.get(key) or {"value": None} for column in columns]
            if not key.startswith("per_class_fid") and key not in SAME and not _known(run, key, sides):
                rows.append(_row(key, *names.get(key, (key, "")), sides))
        missing = {key: why for side in one["sides"].values() for key, why in side["missing"].items()}
        half = -(-len(rows) // 2)
        about = {"extractor": one["extractor"], "reference": one["reference"], "missing": missing}
        tables.append({**about, "halves": [half for half in (rows[:half], rows[half:]) if half]})
    return {"tables": tables} if tables else None


def _known(run: RunFolder, key: str, sides: list[Values]) -> bool:
    assert run.results is not None
    own = [run.results["models"][side].get(key) for side in SIDES]
    pairs = zip(own, (side["value"] for side in sides), strict=True)
    return all(a is not None and b is not None and abs(a - b) <= 1e-3 * abs(a) for a, b in pairs)


def _row(key: str, title: str, meaning: str, sides: list[Values]) -> Values:
    """``sides``: of both models the value, and where they are known its interval and the number of images."""
    texts = []
    for side in sides:
        low, high = side.get("low"), side.get("high")
        interval = "" if low is None or high is None else f"{number(key, low)} to {number(key, high)}"
        texts.append({"text": number(key, side["value"]), "interval": interval})
    before, after = (side["value"] for side in sides)
    about = {"title": title, "meaning": meaning, "unit": "%" if key in SHARES else ""}
    return {**about, "sides": texts, "change": _change(key, before, after), "n": sides[1].get("n")}


def number(key: str, value: float | None) -> str:
    """A share in percent, anything else with three significant digits or two decimals."""
    if value is None:
        return "–"
    text = f"{100 * value:.1f}" if key in SHARES else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
    return text.replace("-", "−")


def _change(key: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "–"
    if key == "fid" and before > 0:
        return f"× {after / before:.2f}"
    return signed(100 * (after - before)) if key in SHARES else signed(after - before, 3)
