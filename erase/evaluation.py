"""``erase score``: the chosen metrics of images that are there, each computed once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import processes
from .errors import UserError, nearest
from .extractors import INCEPTION, Extractor, find_extractor
from .files import cache_folder, digest, read_json, write_json
from .instruments import has_published, run_extractor
from .labels import find_class
from .metrics.enough import enough
from .metrics.fid import statistics
from .model import read_labels
from .pictures import Pictures, check_pictures, find_pictures, is_run, run_pictures
from .readings import MissingError, Readings, read
from .report.kept import keep_scores
from .report.scores import aliases, flat
from .subjects import METRICS, NEEDS_REAL, Subject
from .targets import (
    data_of,
    find_target,
    has_images,
    is_data_of,
    preprocessing,
    run_data,
    statistics_file,
    target_pictures,
)  # fmt: skip

VERSION = 1  # of how a value is computed; another one is another key
BOOTSTRAP = 100


def score(
    sources: str | Path | Sequence[str | Path],
    metrics: str | Sequence[str] | None = None,
    reference: str | Path | None = None,
    extractor: str | None = None,
    forget: Sequence[str | int] = (),
    bootstrap: int = BOOTSTRAP,
    batch: int | None = None,
    size: int | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """The chosen metrics (default: all that can be had) of images that are there; one row a set.

    ``sources``: runs (both sides of each; distances over the retained classes), folders, or .npz files.
    ``reference``: as for :func:`erase.fid`; a run brings its own data. ``extractor``: a run brings its own classifier,
    a published one with the gate and the FID features that it was scored with; others default to Inception.
    ``forget``: the forgotten classes of folders that are no run. ``bootstrap``: resamples for the intervals of FID and
    the Inception score. Readings and values are cached under keys of their content and never computed twice; a run
    also keeps its values in ``scores.json``.

    Raises UserError for an unknown metric, one that was asked for and cannot be had, or input that cannot be read.
    """
    asked = _asked(metrics)
    processes.start(device)
    rows = []
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    for source in given:  # before an extractor is looked for
        check_pictures(source)
    for source in given:
        run = Path(source) if is_run(Path(source)) else None
        if run is not None and extractor is None and has_published(run):
            instrument = run_extractor(run, run_pictures(run)[0].read(0, 1).shape[-1], device)
        else:
            instrument = find_extractor(extractor or (str(run) if run else INCEPTION), weights, device)
        found = []
        for subject, name, keys in _subjects(source, run, reference, instrument, forget, bootstrap, batch, size):
            found.append(_row(subject, name, keys, asked, metrics is not None, instrument, size))
        if run is not None:
            keep_scores(run, found, None if reference is None else str(reference))
        rows += found
    return rows


def _asked(metrics: str | Sequence[str] | None) -> list[str]:
    words = metrics.split(",") if isinstance(metrics, str) else metrics
    asked = list(METRICS) if words is None else [word.strip() for word in words]
    for word in asked:
        if word not in METRICS:
            raise UserError(f"unknown metric {word!r}{nearest(word, METRICS)}")
    return asked


def _subjects(
    source: str | Path,
    run: Path | None,
    reference: str | Path | None,
    instrument: Extractor,
    forget: Sequence[str | int],
    bootstrap: int,
    batch: int | None,
    size: int | None,
) -> Iterable[tuple[Subject, str, list[str]]]:
    """Each set with its name and the keys that tell its values apart."""
    sets = run_pictures(run) if run is not None else find_pictures(source)
    names = read_labels(run / "model") if run is not None else {}
    if run is not None and forget:
        raise UserError("a run knows what it forgot; --forget is for other folders")
    before = None
    for one in sets:
        known = names or {int(c): str(c) for c in ([] if one.labels is None else np.unique(one.labels))}
        gone = one.forget if run is not None else tuple(find_class(text, known) for text in forget)
        mine = read(one, instrument, batch, size)
        real, target = _references(one, gone, reference, instrument, batch, size)
        old = before if one.side == "erased" else None
        subject = Subject(one.side, mine, gone, old, known, bootstrap, real, target)
        other = "" if old is None else old.key
        yield subject, one.name, [mine.key, *_stamp(one, reference), other]
        before = mine if one.side == "original" else None


def _stamp(one: Pictures, reference: str | Path | None) -> list[str]:
    """The content of what a set is compared to, and whether that is its run's own data."""
    own = one.run is not None and (reference is None or is_data_of(reference, one.run))
    if own and one.run is not None:
        return ["own", "" if data_of(one.run) is None else run_data(one.run, one.read(0, 1).shape[-1]).key]
    if reference is None:
        return ["none", ""]
    return ["given", target_pictures(reference).key if has_images(reference) else digest(statistics_file(reference))]


def _references(
    one: Pictures,
    gone: Sequence[int],
    reference: str | Path | None,
    instrument: Extractor,
    batch: int | None,
    size: int | None,
) -> tuple[Callable[[], Readings], Callable[[], Any]]:
    """How to get the real images' readings and the statistics of the retained ones, when a metric asks."""

    def pictures() -> tuple[Pictures, int | None]:
        if one.run is not None and (reference is None or is_data_of(reference, one.run)):
            side = one.read(0, 1).shape[-1]
            return run_data(one.run, side), size or side
        if reference is None:
            raise MissingError("it needs real images; give --reference REF")
        if not has_images(reference):
            raise MissingError(f"it needs real images, and {reference} holds statistics of them")
        return target_pictures(reference), size

    def real() -> Readings:
        images, crop = pictures()
        return read(images, instrument, batch, crop)

    def target() -> Any:
        if reference is not None and not has_images(reference):
            kept = None if one.labels is None else [int(c) for c in np.unique(one.labels) if c not in gone]
            return find_target(reference, instrument, size, batch, kept).statistics
        readings = real()
        rows = slice(None) if readings.asked is None or not gone else ~np.isin(readings.asked, list(gone))
        return statistics(readings.features[rows])

    return real, target


def _row(
    subject: Subject,
    name: str,
    keys: list[str],
    asked: Sequence[str],
    strict: bool,
    instrument: Extractor,
    size: int | None,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for metric in asked:
        if metric == "neighbours" and subject.side == "original":  # the erased side's row has it
            continue
        try:
            values[metric] = _value(metric, subject, keys)
        except MissingError as error:
            if strict:
                raise UserError(f"{metric} of {name}: {error}") from None
            missing[metric] = str(error)
    width, classes = subject.readings.features.shape[1], len(instrument.classes)
    few: dict[str, list[int]] = {}
    for key, value in flat(values).items():
        metric = key.split(".")[0]
        if value["n"] < enough(metric, width, classes):
            few.setdefault(metric, []).append(value["n"])
    notes = [
        f"{metric} of {min(counts)} images; it means something from {enough(metric, width, classes)}"
        for metric, counts in few.items()
    ]
    return {
        "name": name,
        "n": len(subject.readings.features),
        "extractor": instrument.name,
        "layer": instrument.layer,
        "preprocessing": preprocessing(size),
        "metrics": values,
        **aliases(values),
        "missing": missing,
        "notes": notes,
    }


def _value(metric: str, subject: Subject, keys: list[str]) -> Any:
    """A metric's value, from the cache if it was ever computed."""
    labels = None if subject.readings.asked is None else digest(subject.readings.asked.tobytes())
    about = [metric, VERSION, keys[0], labels, list(subject.forget), subject.bootstrap]
    about += keys[1:3] if metric in NEEDS_REAL else []
    about += [keys[3], subject.names] if metric == "neighbours" else []
    path = cache_folder("scores") / f"{metric}-{digest(*about)}.json"

    def held() -> Any:
        with contextlib.suppress(UserError):  # a damaged one is made anew
            return read_json(path) if path.is_file() else None
        return None

    value = processes.on_main(held)
    if value is not None:
        return value
    value = METRICS[metric](subject)
    if processes.is_main():
        write_json(path, value)
    return json.loads(json.dumps(value))  # the same from the cache and not
