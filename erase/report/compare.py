"""``erase grid``: runs side by side, a sweep of the guidance scale, and the class fading over the steps of a run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import SampleConfig, build
from ..errors import UserError, nearest
from ..files import check_writable
from ..model import Model, load_model
from ..packs import read_index, read_results, understood
from ..presets import load_yaml
from ..sampling import image_path, sample_folder
from ..snapshots import IMAGES
from .grid import Panel, Row, class_panel, class_rows, draw_panels, grid_classes

SCALES = (1.0, 1.5, 2.0, 4.0, 8.0)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run: its folder, results.json, config.yaml and class names."""

    folder: Path
    results: dict[str, Any]
    config: dict[str, Any]
    labels: dict[int, str]

    @property
    def forget(self) -> list[int]:
        return [int(entry["index"]) for entry in self.results["forget"]]

    @property
    def name(self) -> str:
        return f"{self.results['method']}, {self.results['optimizer']}, seed {self.results['seed']}"

    @property
    def names(self) -> str:
        return ", ".join(self.labels[label] for label in self.forget)


def open_run(folder: Path) -> Finished:
    """Raises UserError if ``folder`` holds no finished run."""
    if not (folder / "results.json").is_file():
        raise UserError(f"{folder} holds no finished run (no results.json); give the folder of an erase run")
    config, results = load_yaml(folder / "config.yaml"), read_results(folder)
    with understood(folder / "config.yaml"):
        config["model"]["source"], config["sample"].items()
    labels = read_index(folder / "model")
    unnamed = [entry["index"] for entry in results["forget"] if entry["index"] not in labels]
    if unnamed:
        raise UserError(f"{folder}: results.json forgets class {unnamed[0]}, which its model does not name")
    return Finished(folder, results, config, labels)


def side_by_side(runs: Sequence[Finished], output: Path, columns: int | None = None) -> None:
    """The original, and each run in a panel of its own.

    Raises UserError for runs whose originals are not the same images.
    """
    first = runs[0]
    for run in runs[1:]:
        for key in ("source", "sample"):
            mine, other = (r.config["model"]["source"] if key == "source" else r.config["sample"] for r in (first, run))
            if mine != other:
                raise UserError(f"{first.folder} and {run.folder} differ in their model or samples; draw them apart")
    classes = _classes(first)
    columns = columns or (8 if len(runs) == 1 else max(2, 16 // (len(runs) + 1)))
    panels = [class_panel("original", first.folder / "samples" / "original", classes, columns)]
    panels += [class_panel(_panel(run, runs), run.folder / "samples" / "erased", classes, columns) for run in runs]
    forget = sorted({label for run in runs for label in run.forget})
    title = f"erase: forget {', '.join(first.labels[label] for label in forget)}"
    draw_panels(class_rows(first.labels, classes, forget), panels, output, title)


def guidance_sweep(run: Finished, output: Path, scales: Sequence[float] = SCALES) -> None:
    """The forgotten classes at several guidance scales, from the original model and from the erased one."""
    config: SampleConfig = build(SampleConfig, run.config["sample"])
    source = run.config["model"]
    models: dict[str, Model] = {
        "original": load_model(source["source"], source.get("vae"), source.get("num_heads")),
        "erased": load_model(str(run.folder / "model")),
    }
    rows = [Row(run.labels[label], True) for label in run.forget for _ in range(2)]
    panels = []
    with tempfile.TemporaryDirectory() as scratch:
        for side, model in models.items():
            for scale in scales:
                folder = Path(scratch) / side / f"{scale:g}"
                few = dataclasses.replace(config, per_class=4, block=4, guidance_scale=scale)
                sample_folder(model, folder, few, run.forget, f"sample {side} at {scale:g}")
                images = [
                    [image_path(folder, label, 2 * half + column) for column in range(2)]
                    for label in run.forget
                    for half in range(2)
                ]
                panels.append(Panel(f"{side}, {scale:g}", images))
        draw_panels(rows, panels, output, f"guidance scale, {run.names} ({run.name})")


def fading(run: Finished, output: Path) -> None:
    """A film strip: snapshots by columns, the forgotten classes and one other by rows."""
    steps = sorted(path for path in (run.folder / "snapshots").glob("[0-9]*") if path.is_dir())
    if not steps:
        raise UserError(f"{run.folder} holds no snapshots; make the run with --snapshot-every N (and --force)")
    chosen = [steps[round(i * (len(steps) - 1) / 11)] for i in range(12)] if len(steps) > 12 else steps
    classes = sorted(
        (int(path.name) for path in steps[0].iterdir() if path.name.isdecimal()), key=lambda c: (c not in run.forget, c)
    )
    rows = [Row(run.labels[label], label in run.forget) for label in classes for _ in range(IMAGES)]
    panels = [
        Panel(str(int(step.name)), [[image_path(step, label, number)] for label in classes for number in range(IMAGES)])
        for step in chosen
    ]
    draw_panels(rows, panels, output, f"after so many steps, {run.names} ({run.name})", gap=0)


def _classes(run: Finished) -> list[int]:
    shown = sorted(int(path.name) for path in (run.folder / "samples" / "original").iterdir() if path.name.isdecimal())
    return grid_classes(shown, run.forget, [label for label in shown if label not in run.forget])


def _panel(run: Finished, runs: Sequence[Finished]) -> str:
    return "erased" if len(runs) == 1 else run.name


KINDS = ("runs", "guidance", "fading")


def grid(runs: str | Path | Sequence[str | Path], output: str | Path, kind: str = "runs") -> Path:
    """Writes a PNG of finished runs, side by side from the same seeds; where it lies.

    ``kind``: ``runs``; of one run also ``guidance``, the forgotten classes over guidance scales, or ``fading``, its
    snapshots over the steps. Raises UserError for what is no run, or for several runs where one is wanted.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    found, target = [open_run(Path(folder)) for folder in given], Path(output)
    if target.suffix.lower() != ".png":
        raise UserError(f"--output must end in .png, not {str(output)!r}")
    if kind not in KINDS:
        raise UserError(f"unknown kind {kind!r}{nearest(kind, KINDS)}")
    if kind != "runs" and len(found) != 1:
        raise UserError(f"--kind {kind} takes one run, not {len(found)}")
    check_writable(target.parent, "the folder")
    if kind == "runs":
        side_by_side(found, target)
    elif kind == "guidance":
        guidance_sweep(found[0], target)
    else:
        fading(found[0], target)
    return target
