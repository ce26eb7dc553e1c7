"""The commands that are killed: short ones on a small pack of random pictures, long ones at the digits preset."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image

from erase.files import SETTLED, write_text
from erase.methods import METHODS

from .processes import ended, kill_at, start

TINY_PACK = (
    "vae.steps=12", "vae.channels=[8,8,8]", "dit.steps=12", "dit.layers=2", "dit.width=32", "dit.heads=2",
    "classifier.steps=12", "classifier.width=8", "sample.per_class=4", "sample.steps=4", "sample.block=4",
    "runtime.save_every=5",
)  # fmt: skip
TINY_RUN = (
    "unlearn.rounds=15", "unlearn.finish=3", "unlearn.average=0.9", "unlearn.forget.batch_size=16",
    "unlearn.retain.batch_size=16", "sample.per_class=8", "sample.steps=6", "sample.block=4", "score.bootstrap=5",
    "runtime.save_every=4", "runtime.snapshot_every=10",
)  # fmt: skip
SHORT = [
    "sfron-dual", "sfron-shared", "sfron-dual_plus", "salun-dual", "salun-shared", "sa-dual", "sa-dual_plus",
    "sa-shared", "ga-dual", "ga-dual_plus", "eupmu-shared", "surgery-dual", "surgery-dual_plus", "ltu-dual",
    "ltu-shared", "random_label-shared", "random_label-dual", "finetune-shared", "retrain-shared",
]  # fmt: skip
OTHERS = ["pretrain", "sample", "fid", "table"]
WRITERS = ["sfron-dual", "retrain-shared", "pretrain", *OTHERS[1:3], "score", "report", "grid", "convert"]
WRITERS += ["continued", "force", "table"]  # of files that are replaced
ON_A_RUN = {"score": "finished", "report": "finished", "grid": "finished", "force": "finished", "continued": "stopped"}
LONG = ["sfron-dual", "salun-dual", "eupmu-shared", "surgery-dual_plus"]


class Commands:
    """The commands by name. ``tiny`` holds the images and the pack that the short ones work on."""

    def __init__(self, scratch: Path) -> None:
        self.images, self.pack = scratch / "tiny" / "images", scratch / "tiny" / "pack"
        self.table = scratch / "tiny" / "table.yaml"
        if not (self.pack / "erase.json").is_file():
            self._make(scratch)
        self.runs = scratch / "tiny"
        self._write_table()

    def _make(self, scratch: Path) -> None:
        draws = np.random.default_rng(0)
        for label, name in enumerate(("ash", "birch", "cedar", "elder")):
            for number in range(40):
                (self.images / name).mkdir(parents=True, exist_ok=True)
                pixels = draws.integers(256, size=(32, 32, 3)) // 4 + 48 * label
                Image.fromarray(pixels.astype(np.uint8)).save(self.images / name / f"{number}.png")
        words = ("pretrain", "--data", str(self.images), "-o", str(self.pack), *TINY_PACK)
        assert ended(start(words, scratch / "tiny", scratch / "tiny" / "cache"))[0] == 0

    def prepare(self, name: str, home: Path) -> None:
        """What the command finds in its folder: for some a run, of which nothing may be left when it is redone."""
        if name in ON_A_RUN:
            shutil.copytree(self._run(ON_A_RUN[name]) / "out", home / "out")
            if name == "force":
                (home / "out" / "of-the-old-run").write_text("")
            time.sleep(SETTLED / 1e9)  # the digests of younger files are not written down

    def _run(self, state: str) -> Path:
        """A run that is finished, or that was killed with steps behind its last state."""
        home = self.runs / state
        if not (home / "made").exists():
            shutil.rmtree(home, ignore_errors=True)
            third = None if state == "finished" else lambda: kill_at(("state.save_state", ""), "before", 2)
            code, _ = ended(start(self.words("sfron-dual"), home, home / "cache", third))
            assert code == (0 if third is None else -signal.SIGKILL), (home / "log").read_text()[-2000:]
            (home / "made").write_text("")
        return home

    def _write_table(self) -> None:
        settings = {key: value for key, _, value in (word.partition("=") for word in TINY_RUN)}
        lines = [f"model: {self.pack}", "classes: [1]", "seeds: [0, 1]", "set:"]
        lines += [f"  {key}: {value}" for key, value in settings.items() if not key.startswith("runtime")]
        lines += ["  runtime.threads: 1", "rows:", "  - {method: ga, optimizer: shared}"]
        write_text(self.table, "\n".join(lines) + "\n")

    def words(self, name: str, long: bool = False) -> tuple[str, ...]:
        if name == "pretrain":
            return ("pretrain", "--data", str(self.images), "-o", "out", *TINY_PACK)
        if name == "sample":
            return ("sample", str(self.pack), "-o", "out", "--per-class", "24", "sample.block=4", "sample.steps=6")
        if name == "fid":
            folders = [str(self.images / part) for part in ("ash", "birch", "cedar")]
            return (
                "fid",
                *folders,
                "--reference",
                str(self.images),
                "--extractor",
                str(self.pack),
                "-o",
                "out/f.jsonl",
                "--save-reference",
                "out/reference.safetensors",
            )
        if name in ("score", "report"):
            return (name, "out")
        if name == "grid":
            return ("grid", "out", "-o", "out/both.png")
        if name == "convert":
            return ("convert", str(self.pack), "out/dit.pt", "--allow-difference")
        if name in ("force", "continued"):
            return (*self.words("sfron-dual"), *(["--force"] if name == "force" else []))
        if name == "table":
            return ("table", str(self.table), "-o", "out", "--jobs", "1", "--keep", "all")
        method, policy = name.split("-")
        what = ("run", "-o", "out", "--method", method, "--optimizer", policy)
        if long:
            return (*what, "--forget", "3", "runtime.threads=1")
        quick = tuple(f"method.{key}={value}" for key, value in METHODS[method].quick.items())
        preset = ("--preset", f"digits/{name}", "--model", str(self.pack), "--data", str(self.images))
        return (*what, "--forget", "birch", *preset, *quick, *TINY_RUN)
