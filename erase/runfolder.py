"""The folder of a run: whose it is, whether there is space, and what a killed process left in it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from .config import ResolvedConfig, as_mapping, changes
from .errors import UserError
from .files import cache_folder, check_writable, write_text
from .locks import LOCK, beside, held, held_place
from .model import Model
from .presets import load_yaml

BUSY = "another process is working in {output}; wait for it, or give another --output"
MOMENTS = {"shared": 2, "dual": 4, "dual_plus": 6}  # of each weight
TEMPORARY = re.compile(r"\..+\.([a-z0-9_]{8}(\.\w+)?|old-\d+)")  # of erase/files.py


def check_folder(output: Path, config: ResolvedConfig) -> None:
    """Raises UserError if ``output`` holds a run of another config, naming the keys that differ, or something else."""
    path = output / "config.yaml"
    try:
        if path.is_file():
            different = [key for key in changes(load_yaml(path), config) if not key.startswith("runtime")]
            if different:
                keys = ", ".join(different)
                raise UserError(f"{output} holds a run of another config; it differs in {keys}; give another --output")
        elif output.exists() and (not output.is_dir() or any(not _ours(path.name) for path in output.iterdir())):
            raise UserError(f"{output} is there already and holds no run; give another --output")
    except OSError as error:
        raise UserError(f"cannot read the output folder {output}: {error.strerror}") from None


def _ours(name: str) -> bool:
    """Whether a run that has not come to its config yet leaves this in its folder."""
    return name == LOCK or name.startswith(".config.yaml.")


def finished(output: Path) -> bool:
    return (output / "results.json").is_file()


def tidy(output: Path) -> None:
    """Removes the locks that a process left which was killed when its run was finished."""
    if (output / LOCK).exists() or beside(output).exists():
        with contextlib.suppress(UserError), held_run(output):  # the holder may be about to end
            pass


@contextlib.contextmanager
def held_run(output: Path) -> Iterator[None]:
    """Holds a run folder and its place: nobody comes in at the instant when a redone one is put there.

    Raises UserError if another process holds either.
    """
    busy = BUSY.format(output=output)
    with held_place(output, busy), held(output, busy):
        yield


def claim_folder(output: Path, config: ResolvedConfig, need: int) -> None:
    """Makes the run folder with its config.yaml. Raises UserError if it cannot, or if under ``need`` bytes are free."""
    check_writable(cache_folder(), "the cache folder")
    try:
        sweep(output.rglob(".*"))
        write_text(output / "config.yaml", yaml.safe_dump(as_mapping(config), sort_keys=False, allow_unicode=True))
        free = shutil.disk_usage(output).free
    except OSError as error:
        raise UserError(f"cannot write the output folder {output}: {error.strerror}") from None
    if free < need:
        raise UserError(f"{output} has {free >> 20} MiB free and the run needs about {need >> 20}; make space")


def space_needed(model: Model, counts: Mapping[int, int], policy: str) -> int:
    """Bytes of a run, roughly: weights and moments of two states and of a third while it is written, Fisher diagonals,
    the pack, two sample sets."""
    weights = sum(p.numel() * p.element_size() for p in model.transformer.parameters())
    images = 2 * sum(counts.values()) * model.image_size**2 * 3
    return (3 * (1 + MOMENTS[policy]) + 4) * weights + images


def sweep(paths: Iterable[Path]) -> None:
    """Removes those that killed processes were writing. The caller holds the folder."""
    for path in [path for path in paths if TEMPORARY.fullmatch(path.name)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def redo_folder(output: Path, config: ResolvedConfig) -> Path:
    """Where a finished run is redone, until it takes the old one's place; what is there of another config goes."""
    place = _beside(output, "redone")
    try:
        check_folder(place, config)
    except UserError:
        shutil.rmtree(place)
    return place


def exchange(output: Path) -> None:
    """Puts the redone run in the old one's place. A kill at any moment leaves one of them whole: see :func:`settle`."""
    fresh, old = _beside(output, "redone"), _beside(output, "before")
    if output.exists() and not old.exists():
        os.replace(output, old)
    os.replace(fresh, output)
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


def settle(output: Path) -> bool:
    """Ends an exchange that was cut short; whether a redone run has thereby come to its place.

    Raises UserError if another process holds the folder.
    """
    fresh, old, busy = _beside(output, "redone"), _beside(output, "before"), BUSY.format(output=output)
    if not finished(fresh) and not old.exists():
        return False
    with held_place(output, busy), held(output, busy) if output.exists() else contextlib.nullcontext():
        if finished(fresh):
            exchange(output)
            return True
        if output.exists():
            shutil.rmtree(old)  # the new one is there, the old one's removal was cut short
            return True
        os.replace(old, output)
    return False


def exchanging(output: Path) -> bool:
    """Whether an exchange was cut short, so that :func:`settle` is to come first."""
    return _beside(output, "before").exists()


def _beside(output: Path, what: str) -> Path:
    whole = output.absolute()
    return whole.parent / f".{whole.name}.{what}"
