"""``erase fid``: the Frechet distance of many folders to one reference, in one stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import processes
from .errors import UserError
from .extractors import INCEPTION, Extractor, find_extractor
from .files import check_appendable, check_writable, digest
from .metrics.enough import PER_FEATURE, enough
from .metrics.fid import distance_to, root_of
from .pictures import Pictures, check_pictures, find_pictures
from .rows import Rows
from .streaming import moments
from .targets import (
    Target,
    check_target,
    check_width,
    find_target,
    has_images,
    is_data_of,
    preprocessing,
    run_target,
    save_target,
)  # fmt: skip

VERSION = 1  # of what a row is computed from; another one is another key


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
    to when it is done; rows that it has are not computed again, and processes that write to the same file share the
    sets between them, as do those of one launcher. ``batch``: images at a time, without effect on the result beyond
    rounding. ``size``: centre-crop every image to it, as ADM does. ``save_reference``: also write the reference's
    statistics there.

    Raises UserError for what cannot be read, for a set of fewer than two images, and for missing weights, before
    anything is computed.
    """
    processes.start(device)
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    for source in given:  # before an extractor is looked for
        check_pictures(source)
    check_target(reference)
    instrument = find_extractor(extractor, weights, device)
    sets = [one for source in given for one in find_pictures(source)]
    for one in sets:
        if len(one) < 2:
            raise UserError(f"{one.name}: a Frechet distance needs at least 2 images, not {len(one)}")
    if output is not None:
        check_appendable(Path(output))
    if save_reference is not None:
        if Path(save_reference).suffix != ".safetensors":
            raise UserError(f"--save-reference must end in .safetensors, not {Path(save_reference).name!r}")
        check_writable(Path(save_reference).absolute().parent, "the folder")
    held = Rows(Path(output) if output is not None else None)
    whole = find_target(reference, instrument, size, batch)
    if save_reference is not None and processes.is_main():
        save_target(whole, Path(save_reference), instrument, size)
    targets = [own_target(one, reference, whole, instrument, size, batch) for one in sets]
    keys = [
        digest(VERSION, one.key, target.key, instrument.key, instrument.layer, instrument.device.type,
               preprocessing(size))
        for one, target in zip(sets, targets, strict=True)
    ]  # fmt: skip
    done = processes.on_main(lambda: {i: row for i, key in enumerate(keys) if (row := held.find(key)) is not None})
    rows = {i: {**row, "name": sets[i].name} for i, row in done.items()}
    own = processes.dealt([i for i in range(len(sets)) if i not in rows], lambda i: len(sets[i]))
    left: list[int] = []  # what a process of another launch is at
    roots: dict[str, np.ndarray] = {}

    def mine(order: Sequence[int], taken: list[int], wait: bool) -> Iterator[Pictures]:
        for i in order:
            if not held.claim(keys[i], wait):
                left.append(i)
            elif (row := held.find(keys[i])) is not None:
                held.release(keys[i])
                rows[i] = {**row, "name": sets[i].name}
                bar.total -= len(sets[i])
            else:
                taken.append(i)
                yield sets[i]

    def make(order: Sequence[int], wait: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        taken: list[int] = []
        begin = time.monotonic()
        for number, found, shape in moments(mine(order, taken, wait), instrument, batch, size, bar):
            i = taken[number]
            target, statistics = targets[i], found.statistics()
            check_width(target, len(statistics["mu"]))
            now = time.monotonic()
            if target.key not in roots:
                roots[target.key] = root_of(target.statistics)
            value = distance_to(statistics, target.statistics, roots[target.key])
            row = describe(sets[i], target, instrument, size, shape, value)
            if sets[i].run is not None and target is whole:
                row["notes"].append("the retained classes against a reference of all; a run's own data would be split")
            yield i, row | {"seconds": round(now - begin, 4), "key": keys[i]}
            begin = now

    def measured() -> Iterator[tuple[int, dict[str, Any]]]:
        yield from make(own, wait=False)
        for i in list(left):
            yield from make([i], wait=True)

    with held, tqdm(total=sum(len(sets[i]) for i in own), desc="fid", unit="image", disable=not own) as bar:
        for i, row in processes.in_rounds(measured()):
            held.put(row, write=processes.is_main())
            rows[i] = row
    for others in processes.gather(rows):  # some may have found rows of another launch
        rows |= others
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
