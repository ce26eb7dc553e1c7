"""``erase sample``: images of any classes from any saved model, into a folder that can be added to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import processes
from .compiled import check_compile, compiled
from .config import PROTOCOLS, SHORT, RuntimeConfig, SampleConfig, build, differences, merge, with_protocol
from .data.listing import image_files
from .errors import Faults, UserError, nearest
from .files import write_json
from .labels import find_class
from .locks import held
from .model import Model, load_model
from .packs import read_mapping
from .precision import arithmetic
from .runfolder import BUSY, sweep
from .sampling import drawing, sample_folder
from .text import brief
from .trainer import check_runtime, make_accelerator

MARK = "samples.json"


def draw_samples(
    source: str | Path,
    output: str | Path,
    classes: str | Sequence[str | int] = "all",
    exclude: Sequence[str | int] = (),
    per_class: int | None = None,
    protocol: str | None = None,
    words: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fills ``output/CCCC/IIIII.png`` with images 0 to ``per_class`` - 1 of the classes; what the folder's
    ``samples.json`` holds.

    ``source``: what :func:`erase.load_model` takes, or a run folder. ``classes``, ``exclude``: by index or name.
    ``protocol``: ``fast`` (DPM-Solver++, 25 steps), ``paper`` (ancestral, 250 steps), both with guidance 1.5; default
    the pack's own. ``words``: ``sample`` and ``runtime`` settings over it. Images that are there are kept, and more
    classes or images are added.

    Raises UserError for an unknown class or protocol, a folder with images of another model or protocol, or one that
    another process is filling.
    """
    output = Path(output)
    inside = Path(source) / "model"  # of a run
    place = str(inside if (inside / "model_index.json").is_file() else source)
    given = dict(words or {})
    faults = Faults()
    unknown = [brief(key) for key in given if key not in ("sample", "runtime")]
    if unknown:
        known = "erase sample takes sample.KEY=VALUE and runtime.KEY=VALUE"
        faults.found.append(f"unknown key {', '.join(unknown[:10])}; {known}")
    runtime: RuntimeConfig = build(RuntimeConfig, given.get("runtime", {}), "runtime", faults=faults)
    with faults.gathered():
        _config(None, protocol, given.get("sample", {}), per_class)
    faults.tell()
    check_runtime(runtime)
    processes.start(runtime.device)
    model = load_model(place)
    config = _config(model.pack, protocol, given.get("sample", {}), per_class)
    wanted = _classes(model, classes, exclude)
    model.to(make_accelerator(runtime, output).device)
    check_compile(runtime.compile, model.device.type)
    about = {
        "version": 1,
        "model": model.key(),
        "protocol": drawing(config),
        "arithmetic": ", ".join(arithmetic(model.device, runtime.precision, runtime.compile)),
    }
    processes.on_main(lambda: check_mark(output, about))
    with held(output, BUSY.format(output=output)):
        processes.on_main(lambda: claim(output, about))
        with compiled(model.transformer, runtime.compile, drawing=True):
            sample_folder(model, output, config, wanted, "sample", runtime.precision)
    return {**about, "classes": wanted, "per_class": config.per_class, "output": str(output)}


def _config(pack: Mapping[str, Any] | None, protocol: str | None, settings: Any, per_class: int | None) -> SampleConfig:
    if protocol is None:
        base = (pack or {}).get("protocol") or PROTOCOLS["fast"]
    elif protocol in PROTOCOLS:
        base = merge((pack or {}).get("protocol") or {}, PROTOCOLS[protocol])
    else:
        raise UserError(f"unknown protocol {protocol!r}{nearest(protocol, PROTOCOLS)}")
    named = {SHORT["sample"]: settings} if isinstance(settings, str) else settings
    if not isinstance(named, Mapping):
        raise UserError(f"sample must be a section or a protocol's name, not {brief(settings)}")
    values = merge(base, with_protocol(named))
    config: SampleConfig = build(SampleConfig, values, "sample")
    if per_class is not None and per_class < 1:
        raise UserError(f"per_class must be at least 1, not {per_class}")
    return replace(config, per_class=per_class or config.per_class)


def _classes(model: Model, classes: str | Sequence[str | int], exclude: Sequence[str | int]) -> list[int]:
    chosen_ids = model.classes if classes == "all" else [find_class(text, model.labels) for text in _listed(classes)]
    without = {find_class(text, model.labels) for text in _listed(exclude)}
    wanted = [label for label in dict.fromkeys(chosen_ids) if label not in without]
    if not wanted:
        raise UserError("no class is left to draw")
    return wanted


def _listed(classes: str | Sequence[str | int]) -> list[str | int]:
    return [classes] if isinstance(classes, str) else list(classes)


def claim(output: Path, about: Mapping[str, Any]) -> None:
    """Marks the folder as that of these images, and removes what killed processes were writing. The caller holds it.

    Raises UserError if it is another's, or cannot be written.
    """
    check_mark(output, about)
    try:
        sweep([*output.glob(f".{MARK}.*"), *output.glob("[0-9]*/.[0-9]*.png.*")])
        write_json(output / MARK, about)
    except OSError as error:
        raise UserError(f"cannot write the output folder {output}: {error.strerror}") from None


def check_mark(output: Path, about: Mapping[str, Any]) -> None:
    """Raises UserError if the folder's images are of another model or protocol, or of nobody knows which."""
    mark = output / MARK
    if mark.is_file():
        different = differences(read_mapping(mark), about)
        if different:
            raise UserError(f"{output} holds samples that differ in {', '.join(different)}; give another --output")
    elif output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give another --output")
    elif output.is_dir() and image_files(output):
        raise UserError(f"{output} holds images of an unknown model; give another --output")
