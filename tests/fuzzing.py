"""Generated bad input, and what must hold whatever is handed in. Used by tests/test_fuzz.py and scripts/fuzz.py."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

import erase
from erase.classifier import save_instrument
from erase.files import digest, write_json
from erase.original import to_original
from erase.reference import reference_of, write_reference

from .helpers import make_model, write_image
from .test_classifier import make_instrument

ROOT = Path(__file__).resolve().parent.parent
PROGRESS = re.compile(r"^left out, cannot be read|\d+%\|")  # of images that are passed over, and bars
CANARY = "canary"  # what a payload would write
SHORT = ["runtime.device=cpu", "sample.per_class=2", "sample.steps=1", "unlearn.rounds=0", "unlearn.finish=1"]
SHORT += ["unlearn.retain.batch_size=2", "score.bootstrap=0", "method.fisher_samples=2"]


@dataclass(frozen=True)
class Case:
    """One input: ``make`` puts it into the folder in which ``erase *words`` is then run. ``sure``: it is certainly bad,
    so that exit code 0 would be a fault; else it may also be taken."""

    kind: str
    name: str
    words: tuple[str, ...]
    make: Callable[[Path], None] = lambda folder: None
    sure: bool = True

    def __repr__(self):
        return f"{self.kind}: {self.name}"


def make_world(root):
    """Good input of every kind, tiny: a pack, its data, a checkpoint, a finished run, an .npz and a statistics file."""
    about = {"version": 1, "family": "digits", "classes": [0, 1, 2], "data": {"source": "data"}}
    model = make_model(label_slots=12, pack=about)
    erase.save_model(model, root / "pack")
    instrument = make_instrument(classes=(0, 1, 2))
    save_instrument(instrument, root / "pack" / "classifier", {})
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(3, 6, 16, 16, 3), dtype=np.uint8)
    for label in range(3):
        for number in range(6):
            write_image(root / "data" / f"name {label}" / f"{number}.png", pixels[label, number])
            for side in ("original", "erased"):
                write_image(root / "run/samples" / side / f"{label:04d}" / f"{number:05d}.png", pixels[label, number])
    width = instrument.network.settings["features"]
    features = generator.normal(size=(12, width)).astype(np.float32)
    write_reference(reference_of(features, np.arange(12) % 3), root / "pack")
    shutil.copytree(root / "pack", root / "run" / "model")
    scores = dict.fromkeys(("fa", "ra", "fid"), 0.5)
    results = {
        "forget": [{"index": 1, "name": "name 1"}], "method": "ga", "optimizer": "dual", "seed": 0,
        "models": {"original": scores, "erased": scores},
    }  # fmt: skip
    write_json(root / "run" / "results.json", results)
    config = {"model": {"source": "pack"}, "data": {"source": "data"}, "sample": {"per_class": 6, "steps": 1}}
    (root / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "x.yaml").write_text(yaml.safe_dump({"method": {"name": "ga"}, "unlearn": {"rounds": 1}}))
    torch.save(to_original(make_model().transformer), root / "x.pt")
    np.savez(root / "x.npz", pixels.reshape(-1, 16, 16, 3))
    return root


def call(words):
    """``erase *words`` in this process: exit code, stdout and stderr as they arrive at the file descriptors."""
    from erase import cli

    handler = signal.getsignal(signal.SIGTERM)
    argv, sys.argv = sys.argv, ["erase", *words]
    code = None
    try:
        with captured() as (out, err):
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return code, out(), err()


@contextlib.contextmanager
def captured():
    """What Python and libraries beneath it write to stdout and stderr."""
    files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
    kept = [os.dup(1), os.dup(2)]
    sys.stdout.flush(), sys.stderr.flush()
    streams = sys.stdout, sys.stderr
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (
            open(number, "w", closefd=False, errors=errors, encoding="utf-8")  # noqa: SIM115
            for number, errors in ((1, "strict"), (2, "backslashreplace"))
        )
        yield tuple(lambda file=file: _content(file) for file in files)
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        sys.stdout, sys.stderr = streams
        for number, handle in enumerate(kept, start=1):
            os.dup2(handle, number)
            os.close(handle)


def _content(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def call_process(words):
    """As :func:`call`, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "erase", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def run_case(case, world, caller=call):
    """The exit code. Raises AssertionError for whatever must not happen."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch) / "here"
        shutil.copytree(world, folder)
        case.make(folder)
        before = snapshot(Path(scratch))
        back = Path.cwd()
        os.chdir(folder)
        try:
            code, out, err = caller(case.words)
        finally:
            os.chdir(back)
        lines = [line for line in err.splitlines() if line.strip() and not PROGRESS.search(line)]
        told = f"{case}: {case.words}: exit code {code}\n{err[-1000:]}"
        assert not (Path(scratch) / "here" / CANARY).exists(), f"it ran: {told}"
        assert "Traceback" not in err + out, told
        if code:
            assert code in (1, 2), told
            assert len(lines) == 1, told
            assert lines[0].startswith("erase: "), told
            assert len(lines[0]) < 3000, told
            assert all(c.isprintable() for c in lines[0]), told
            assert "(--debug shows the traceback)" not in err, f"nobody foresaw it: {told}"
            assert not list(Path(scratch).glob("here/out*/results.json")), f"partial results: {told}"
        else:
            assert not case.sure, f"taken: {told}"
        after = snapshot(Path(scratch))
        assert before == after, f"written outside the output folder: {told}\n{set(before.items()) ^ set(after.items())}"
        return code


def snapshot(root):
    """Every path that is no output, with its content."""
    found = {}
    for folder, inside, names in os.walk(os.fsencode(root)):
        inside[:] = [name for name in inside if not name.startswith((b"out", b".out"))]
        for name in [*names, *inside]:
            path = os.path.join(folder, name)
            plain = os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 10**7
            found[path] = digest(Path(os.fsdecode(path))) if plain else "other"
    return found
