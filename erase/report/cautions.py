"""What a reader of a run's numbers must know before believing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..metrics.enough import PER_FEATURE, SHARES
from .run_folder import RunFolder

DRAWN, CHANGED, GONE, DROP, RATIO, DESTROYED = 0.5, 0.05, 0.02, 0.02, 1.2, 0.5


def cautions(run: RunFolder) -> list[str]:
    """One sentence each, the gravest first."""
    if run.results is None:
        return _of_steps(run)
    original, erased = (run.results["models"][side] for side in ("original", "erased"))
    found = [*_forgetting(original, erased), *_retaining(run, original, erased), *_of_steps(run)]
    return [*found, *_few(run, erased)]


def _forgetting(original: Mapping[str, Any], erased: Mapping[str, Any]) -> list[str]:
    if original["fa"] is None or erased["fa"] is None:
        return [f"Nothing was scored: {original.get('why') or 'no reason is kept'}."]
    before, after, gone, top1 = (_percent(v) for v in (original["fa"], erased["fa"], *_ends(erased)))
    found = [f"FID was not computed: {original['why']}."] if original.get("why") else []
    if original["fa"] < DRAWN:
        found.append(f"The original model itself shows the class in {before} of its images only.")
    if erased["fa"] >= original["fa"] - CHANGED:
        found.append(f"FA is unchanged ({before} before, {after} after): nothing was forgotten.")
    elif erased["fa"] > GONE:
        found.append(f"The class is not gone: {after} of the images asked for still show it.")
    if _ends(erased)[0] >= DESTROYED > _ends(original)[0]:
        text = f"{gone} of the images asked for as the forgotten class are no image of any class"
        found.append(f"{text}: it was destroyed rather than gracefully replaced by others.")
    if _ends(erased)[1] >= erased["fa"] + CHANGED:
        found.append(f"Without the image gate FA would be {top1}: the classifier names the class for what is no image.")
    return found


def _ends(scores: Mapping[str, Any]) -> tuple[float, float]:
    return scores.get("not_an_image") or 0.0, scores.get("fa_top1") or 0.0


def _retaining(run: RunFolder, original: Mapping[str, Any], erased: Mapping[str, Any]) -> list[str]:
    found = []
    if None not in (original["ra"], erased["ra"]) and erased["ra"] < original["ra"] - DROP - 1e-9:
        found.append(f"RA fell by {100 * (original['ra'] - erased['ra']):.1f} points: the other classes paid.")
    if original["fid"] and erased["fid"] and erased["fid"] > RATIO * original["fid"]:
        found.append(f"FID is {erased['fid'] / original['fid']:.2f} times the original's: the other classes paid.")
    hurt = [row for row in run.neighbours() if not row["forgotten"] and row["change"] < -CHANGED]
    names = ", ".join(f"{run.name(row['index'])} by {-100 * row['change']:.0f}" for row in hurt[:5])
    if hurt:
        more = f" and {len(hurt) - 5} more classes" if len(hurt) > 5 else ""
        found.append(f"Accuracy fell by more than 5 points: {names} points{more}.")
    return found


def _of_steps(run: RunFolder) -> list[str]:
    if not run.steps.strange:
        return []
    return [f"{run.steps.strange} values of metrics.jsonl are not finite and are not drawn."]


def _few(run: RunFolder, erased: Mapping[str, Any]) -> list[str]:
    """Values of fewer images than it takes to mean something."""
    metrics = erased.get("metrics") or {}
    least = dict.fromkeys(metrics, SHARES) | ({"fid": PER_FEATURE * run.width} if run.width else {"fid": 0})
    few = {name: value["n"] for name, value in metrics.items() if value["n"] < least[name]}
    found = [f"{name} of {n} images, which means something from {least[name]}" for name, n in few.items()]
    notes = dict.fromkeys(note for one in run.scores for side in one["sides"].values() for note in side["notes"])
    texts = [note.replace("; it means something from", ", which means something from") for note in notes]
    found = list(dict.fromkeys([*found, *texts]))
    return [f"Few images: {'; '.join(found)}."] if found else []


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
