"""``erase fid``: the Frechet distance of many folders to one reference, in one stream."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import processes
from .errors import UserError
from .extractors import INCEPTION, Extractor, find_extractor
from .files import digest
from .metrics.enough import PER_FEATURE, enough
from .metrics.fid import distance_to, root_of
from .pictures import Pictures, find_pictures
from .streaming import moments
from .targets import (
    Target,
    check_width,
    find_target,
    has_images,
    is_data_of,
    preprocessing,
    run_target,
    save_target,
)  # fmt: skip

VERSION = 1  # of what a row is computed from; another one is another key
ROW_START = b'{"name": "'


def fid(
    sources: str | Path | Sequence[str | Path],
    reference: str | Path,
    extractor: str = INCEPTION,
    output: str | Path | None = None,
    batch: int | None = None,
    size: int | None = None,
    weights: str | None = None,
    save_reference: str | Path | None = None,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Frechet distances (Heusel et al. 2017) of sets of images to one reference; one row a set.

    ``sources``: folders of images, .npz files of uint8 images, or run folders (their original and erased samples of the
    retained classes). ``reference``: ``digits``, a folder of images, a statistics file, or an .npz (images, or ADM's
    ``mu`` and ``sigma``); the own data of a run is taken of its retained classes alone, as in its results.json.
    ``extractor``: see :func:`erase.extractors.find_extractor`. ``output``: a JSON-lines file that every row is appended
    to when it is done; rows that it has are not computed again. ``batch``: images at a time, without effect on the
    result beyond rounding. ``size``: centre-crop every image to it, as ADM does. ``save_reference``: also write the
    reference's statistics there. Several processes share whole sets.

    Raises UserError for what cannot be read, for a set of fewer than two images, and for missing weights, before
    anything is computed.
    """
    processes.start(device)
    instrument = find_extractor(extractor, weights, device)
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    sets = [one for source in given for one in find_pictures(source)]
    for one in sets:
        if len(one) < 2:
            raise UserError(f"{one.name}: a Frechet distance needs at least 2 images, not {len(one)}")
    held = processes.on_main(lambda: read_rows(Path(output)) if output is not None else {})
    whole = find_target(reference, instrument, size, batch)
    if save_reference is not None and processes.is_main():
        save_target(whole, Path(save_reference), instrument, size)
    targets = [own_target(one, reference, whole, instrument, size, batch) for one in sets]
    keys = [
        digest(VERSION, one.key, target.key, instrument.key, instrument.layer, instrument.device.type,
               preprocessing(size))
        for one, target in zip(sets, targets, strict=True)
    ]  # fmt: skip
    rows = {i: {**held[key], "name": sets[i].name} for i, key in enumerate(keys) if key in held}
    todo = [i for i in range(len(sets)) if i not in rows]
    own = processes.dealt(todo, lambda i: len(sets[i]))

    def measured() -> Iterator[tuple[int, dict[str, Any]]]:
        roots: dict[str, np.ndarray] = {}
        begin = time.monotonic()
        with tqdm(total=sum(len(sets[i]) for i in own), desc="fid", unit="image", disable=not own) as bar:
            for number, found, shape in moments([sets[i] for i in own], instrument, batch, size, bar):
                i = own[number]
                statistics = found.statistics()
                check_width(targets[i], len(statistics["mu"]))
                now = time.monotonic()
                target = targets[i]
                if target.key not in roots:
                    roots[target.key] = root_of(target.statistics)
                value = distance_to(statistics, target.statistics, roots[target.key])
                row = describe(sets[i], target, instrument, size, shape, value)
                if sets[i].run is not None and target is whole:
                    row["notes"].append(
                        "the retained classes against a reference of all; a run's own data would be split"
                    )
                row |= {"seconds": round(now - begin, 4), "key": keys[i]}
                begin = now
                yield i, row

    for i, row in processes.in_rounds(measured()):
        if output is not None and processes.is_main():
            append_row(Path(output), row)
        rows[i] = row
    return [rows[i] for i in range(len(sets))]


def own_target(
    one: Pictures, reference: str | Path, whole: Target, extractor: Extractor, size: int | None, batch: int | None
) -> Target:
    """The reference, of a run's retained classes alone if it is the run's own data or a pack's statistics."""
    if one.run is None or one.labels is None:
        return whole
    retained = sorted({int(label) for label in one.labels})
    if is_data_of(reference, one.run):
        return run_target(one.run, retained, one.read(0, 1).shape[-1], extractor, size, batch)
    return whole if has_images(reference) else find_target(reference, extractor, size, batch, retained)


def describe(
    one: Pictures, target: Target, extractor: Extractor, size: int | None, shape: tuple[int, int], value: float
) -> dict[str, Any]:
    """One row: what was compared to what, and how."""
    n, width = len(one), len(target.statistics["mu"])
    notes = []
    if n < enough("fid", width, 0):
        notes.append(f"{n} images for {width} features: biased upwards; compare at equal n, from {PER_FEATURE * width}")
    if target.size is not None and target.size != shape:
        notes.append(
            f"images of {shape[1]} x {shape[0]} pixels against a reference of {target.size[1]} x {target.size[0]}"
        )
    return {
        "name": one.name,
        "n": n,
        "fid": value,
        "frechet_inception_distance": value,
        "reference": target.name,
        "reference_count": target.count,
        "extractor": extractor.name,
        "layer": extractor.layer,
        "preprocessing": preprocessing(size),
        "notes": notes,
        "images_key": one.key,
        "reference_key": target.key,
        "extractor_key": extractor.key,
    }


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Finished rows by key. A last line that a stop cut short is left out. Raises UserError for any other content."""
    if not path.exists():
        return {}
    rows = {}
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            rows[str(row["key"])] = row
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number + 1}, is no row of erase fid; give another --output") from None
    if not tail.startswith(ROW_START[: len(tail)]):
        raise UserError(f"{path}, line {len(lines) + 1}, is no row of erase fid; give another --output")
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """One line in one write, in the place of what a stop cut short."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def fid_table(rows: Sequence[dict[str, Any]]) -> str:
    """Names, counts and distances in columns, notes below."""
    width = max([len(str(row["name"])) for row in rows] + [6])
    lines = [f"{'':{width}}  {'images':>8}  {'FID':>10}"]
    lines += [f"{row['name']:{width}}  {row['n']:>8}  {row['fid']:>10.4g}" for row in rows]
    if rows:
        first = rows[0]
        count = "" if first["reference_count"] is None else f" ({first['reference_count']} images)"
        lines.append(
            f"\nreference {first['reference']}{count}, extractor {first['extractor']}, {first['preprocessing']}"
        )
    notes = [f"{row['name']}: {note}" for row in rows for note in row["notes"]]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])
