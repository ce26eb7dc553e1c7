"""Kills `erase` at random moments and at every file replacement, starts it again, and compares with undisturbed runs.

python scripts/reliability.py [--only short,long,signals,writes,two,watch] [--output docs/results/reliability.json]

Every trial has a folder and a cache of its own, so that each phase really happens, and every command is a fresh process
(forked from one that has done the imports) whose continuation is the same command. The record is written after each
trial, and trials that it holds are not repeated. Needs a POSIX system.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import argparse
import hashlib
import json
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

import erase.cli
import erase.evaluation
import erase.fidelity
import erase.pretraining
import erase.samples
import erase.table.run
import erase.table.warm
from erase.files import read_json, write_json, write_text
from erase.methods import METHODS

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
LONG = ["sfron-dual", "salun-dual", "eupmu-shared", "surgery-dual_plus"]
TIMES = {"seconds", "peak_memory", "versions"}


class Commands:
    """The commands by name. ``tiny`` holds the images and the pack that the short ones work on."""

    def __init__(self, scratch: Path) -> None:
        self.images, self.pack = scratch / "tiny" / "images", scratch / "tiny" / "pack"
        self.table = scratch / "tiny" / "table.yaml"
        if not (self.pack / "erase.json").is_file():
            self._make(scratch)

    def _make(self, scratch: Path) -> None:
        draws = np.random.default_rng(0)
        for label, name in enumerate(("ash", "birch", "cedar", "elder")):
            for number in range(40):
                (self.images / name).mkdir(parents=True, exist_ok=True)
                pixels = draws.integers(256, size=(32, 32, 3)) // 4 + 48 * label
                Image.fromarray(pixels.astype(np.uint8)).save(self.images / name / f"{number}.png")
        words = ("pretrain", "--data", str(self.images), "-o", str(self.pack), *TINY_PACK)
        assert ended(start(words, scratch / "tiny", scratch / "tiny" / "cache"))[0] == 0
        settings = {key: value for key, _, value in (word.partition("=") for word in TINY_RUN)}
        lines = [f"model: {self.pack}", f"data: {self.images}", "classes: [1]", "seeds: [0, 1]", "set:"]
        lines += [f"  {key}: {value}" for key, value in settings.items() if not key.startswith("runtime")]
        lines += ["rows:", "  - {method: ga, optimizer: shared, preset: digits/ga-shared}"]
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
            )
        if name == "table":
            return ("table", str(self.table), "-o", "out", "--jobs", "1", "--keep", "all")
        method, policy = name.split("-")
        what = ("run", "-o", "out", "--method", method, "--optimizer", policy)
        if long:
            return (*what, "--forget", "3", "runtime.threads=1")
        quick = tuple(f"method.{key}={value}" for key, value in METHODS[method].quick.items())
        preset = ("--preset", f"digits/{name}", "--model", str(self.pack), "--data", str(self.images))
        return (*what, "--forget", "birch", *preset, *quick, *TINY_RUN)


def start(words: Sequence[str], home: Path, cache: Path, prepare: Callable[[], None] | None = None) -> int:
    """A process that runs ``erase`` with these words in ``home``; its id. What it says goes to ``home``/log."""
    home.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.chdir(home)
        os.environ |= {"ERASE_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[1])}
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["erase", *words]
        if prepare is not None:
            prepare()
        erase.cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(process: int) -> tuple[int, float]:
    """Exit code (minus the signal that ended it) and seconds waited."""
    begin = time.monotonic()
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begin


def signalled(process: int, after: float, number: int) -> int | None:
    """Sends the signal after so many seconds; the exit code if the process ended before."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, number)
    return None


def content(folder: Path) -> dict[str, str]:
    """A digest of every file that a command leaves, without its times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or name.endswith((".log", ".golden")) or path.name == "golden.json":
            continue
        data = path.read_bytes()
        if path.name == "results.json":
            data = json.dumps(_timeless(json.loads(data))).encode()
        elif path.name in ("f.jsonl", "cells.jsonl"):
            data = json.dumps([_timeless(json.loads(line)) for line in data.splitlines()]).encode()
        elif path.parent == folder and path.name.startswith("table."):
            continue  # the rendered table shows times
        found[name] = hashlib.sha256(data).hexdigest()[:16]
    return found


def _timeless(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in TIMES}


def unreadable(*folders: Path) -> list[str]:
    """Files under their final names that cannot be read; of a .jsonl the last line may be cut."""
    bad = []
    for path in [path for folder in folders for path in folder.rglob("*")]:
        if path.name.startswith(".") or any(part.startswith(".") for part in path.relative_to(folders[0].parent).parts):
            continue
        try:
            _parse(path)
        except FileNotFoundError:
            continue  # it went between two looks
        except Exception as error:
            bad.append(f"{path}: {error}")
    return bad


def _parse(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        for line in path.read_bytes().split(b"\n")[:-1]:
            json.loads(line)
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()


def phase(home: Path) -> str:
    """Where the last process was: the title of its last progress bar."""
    log = (home / "log").read_text(errors="replace") if (home / "log").exists() else ""
    titles = re.findall(r"(sample original|sample replay|sample erased|sample|unlearn|read|vae|dit|classifier|fid|cells"
                        r"|golden runs|encode):\s+\d+%", log.rpartition("--- start ---")[2])  # fmt: skip
    return titles[-1] if titles else "start"


class Trials:
    """The record, and the undisturbed runs that trials are compared with."""

    def __init__(self, output: Path, scratch: Path) -> None:
        self.output, self.scratch, self.commands = output, scratch, Commands(scratch)
        self.record: dict[str, Any] = read_json(output) if output.is_file() else {"trials": {}}
        self.whole: dict[str, tuple[dict[str, str], float]] = {}

    def reference(self, name: str, long: bool) -> tuple[dict[str, str], float]:
        key = f"{'long-' if long else ''}{name}"
        if key not in self.whole:
            home = self.scratch / "whole" / key
            shutil.rmtree(home, ignore_errors=True)
            code, seconds = ended(start(self.commands.words(name, long), home, home / "cache"))
            assert code == 0, (home / "log").read_text()[-2000:]
            self.whole[key] = content(home / "out"), seconds
            shutil.rmtree(home)
        return self.whole[key]

    def trial(self, key: str, body: Callable[[Path], dict[str, Any]]) -> None:
        if key in self.record["trials"]:
            return
        home = self.scratch / "trials" / key.replace("/", "_")
        shutil.rmtree(home, ignore_errors=True)
        result = body(home)
        self.record["trials"][key] = result
        self.record["machine"] = (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, fp32 on the CPU"
        )
        write_json(self.output, self.record)
        write_text(self.output.with_suffix(".md"), table_of(self.record))
        print(key, json.dumps(result), flush=True)
        if result["identical"] and not result.get("unreadable"):
            shutil.rmtree(home)

    def judge(self, name: str, long: bool, home: Path, about: dict[str, Any]) -> dict[str, Any]:
        """Continues to the end, and compares."""
        code, _ = ended(start(self.commands.words(name, long), home, home / "cache"))
        found, wanted = content(home / "out") if code == 0 else {}, self.reference(name, long)[0]
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        return {"command": name, **about, "code": code, "identical": not different, "different": different[:5]}

    def killed(self, key: str, name: str, kills: int, long: bool = False, number: int = signal.SIGKILL) -> None:
        """``kills`` kills at random moments of the time that an undisturbed run takes, then to the end."""

        def body(home: Path) -> dict[str, Any]:
            draws, seconds = random.Random(key), self.reference(name, long)[1]
            phases: list[str] = []
            bad: list[str] = []
            codes: list[int] = []
            for attempt in range(20):
                if len(phases) == kills:
                    break
                if attempt:
                    with (home / "log").open("a") as log:
                        log.write("--- start ---\n")
                process = start(self.commands.words(name, long), home, home / "cache")
                if signalled(process, draws.uniform(0, seconds), number) is not None:  # it was through before
                    if not phases:
                        shutil.rmtree(home)
                        continue
                    break
                code, _ = ended(process)
                if code == 0 and number == signal.SIGKILL:  # through at that very moment
                    break
                codes.append(code)
                phases.append(phase(home))
                bad += unreadable(home)
            expected = -number if number == signal.SIGKILL else 128 + number
            about = {"killed in": phases, "codes": sorted({*codes}), "as told": {*codes} <= {expected, 0}}
            return self.judge(name, long, home, {**about, "unreadable": bad})

        self.trial(key, body)

    def sites(self, name: str) -> list[tuple[str, int]]:
        """Every place in the code that replaces a file, with the number of its first replacement."""
        home = self.scratch / "sites"
        shutil.rmtree(home, ignore_errors=True)
        code, _ = ended(start(self.commands.words(name), home, home / "cache", lambda: record_sites(home / "sites")))
        assert code == 0, (home / "log").read_text()[-2000:]
        found: dict[str, int] = {}
        for number, site in enumerate((home / "sites").read_text().splitlines()):
            found.setdefault(site, number)
        return list(found.items())

    def writes(self, name: str) -> None:
        for site, number in self.sites(name):
            for moment in ("before", "after"):

                def body(home: Path, number: int = number, moment: str = moment) -> dict[str, Any]:
                    words = self.commands.words(name)
                    code, _ = ended(start(words, home, home / "cache", lambda: kill_at(number, moment)))
                    about = {"killed in": [moment], "codes": [code], "as told": code == -signal.SIGKILL}
                    return self.judge(name, False, home, {**about, "unreadable": unreadable(home)})

                self.trial(f"writes/{name}/{site}/{moment}", body)

    def two(self, key: str, name: str) -> None:
        def body(home: Path) -> dict[str, Any]:
            words = self.commands.words(name)
            pair = [start(words, home, home / "cache") for _ in range(2)]
            codes = sorted(ended(process)[0] for process in pair)
            said = (home / "log").read_text().count("another process is working in")
            return self.judge(name, False, home, {"codes": codes, "as told": codes == [0, 2] and said == 1})

        self.trial(key, body)

    def watched(self, key: str, name: str) -> None:
        """All files are read again and again while the command runs."""

        def body(home: Path) -> dict[str, Any]:
            process, looks, bad = start(self.commands.words(name), home, home / "cache"), 0, []
            while not os.waitpid(process, os.WNOHANG)[0]:
                bad += unreadable(home)
                looks += 1
            return self.judge(name, False, home, {"looks": looks, "unreadable": bad, "as told": True})

        self.trial(key, body)


def _patched(change: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    os.replace = change(os.replace)  # type: ignore[assignment]


def record_sites(path: Path) -> None:
    """Writes down who calls each replacement, in this process."""

    def change(real: Callable[..., None]) -> Callable[..., None]:
        def replace(source: Any, target: Any) -> None:
            frames = [f for f in traceback.extract_stack() if "/erase/" in f.filename and "files.py" not in f.filename]
            with path.open("a") as file:
                file.write(f"{Path(frames[-1].filename).stem}.{frames[-1].name}\n")
            real(source, target)

        return replace

    _patched(change)


def kill_at(number: int, moment: str) -> None:
    """This process kills itself just before or after its replacement of this number."""
    count = iter(range(1 << 30))

    def change(real: Callable[..., None]) -> Callable[..., None]:
        def replace(source: Any, target: Any) -> None:
            mine = next(count) == number
            if mine and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)

        return replace

    _patched(change)


KINDS = {
    "long": "killed (SIGKILL), digits preset", "short": "killed (SIGKILL), short", "signals": "SIGTERM or SIGINT",
    "writes": "killed before or after a file replacement", "two": "two processes on one folder",
    "watch": "every file read while it runs",
}  # fmt: skip


def table_of(record: dict[str, Any]) -> str:
    """Trials, ends that are bit-identical, unreadable files and where they were stopped, by kind."""
    lines = ["| what | trials | end bit-identical | as told | unreadable files | stopped in |", "|" + "---|" * 6]
    for kind, title in KINDS.items():
        rows = [row for key, row in record["trials"].items() if key.startswith(f"{kind}/")]
        places = Counter(place for row in rows for place in row.get("killed in", []))
        shown = ", ".join(f"{place} {count}" for place, count in places.most_common())
        sums = [sum(bool(row[name]) for row in rows) for name in ("identical", "as told")]
        bad = sum(len(row.get("unreadable", [])) for row in rows)
        lines.append(f"| {title} | {len(rows)} | {sums[0]} | {sums[1]} | {bad} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/results/reliability.json"))
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "erase-reliability")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--short", type=int, default=40, help="short trials")
    parser.add_argument("--long", type=int, default=10, help="trials at the digits preset")
    asked = parser.parse_args()
    kinds, trials = asked.only.split(","), Trials(asked.output.resolve(), asked.scratch.resolve())
    names = [*SHORT, *OTHERS]
    for number in range(asked.short if "short" in kinds else 0):
        name = names[number % len(names)]
        trials.killed(f"short/{number:02d}-{name}", name, 1 if number % 3 else 2 + number % 2)
    for number in range(8 if "signals" in kinds else 0):
        name = [*SHORT[::5], *OTHERS][number]
        trials.killed(f"signals/{number}-{name}", name, 1, number=(signal.SIGTERM, signal.SIGINT)[number % 2])
    if "writes" in kinds:
        for name in ("sfron-dual", "retrain-shared", "pretrain"):
            trials.writes(name)
    if "two" in kinds:
        trials.two("two/sfron-dual", "sfron-dual")
    if "watch" in kinds:
        trials.watched("watch/sa-dual", "sa-dual")
    for number in range(asked.long if "long" in kinds else 0):
        name = LONG[number % len(LONG)]
        trials.killed(f"long/{number:02d}-{name}", name, 1 if number % 3 else 2, long=True)
    failed = [key for key, row in trials.record["trials"].items() if not (row["identical"] and row["as told"])]
    print(table_of(trials.record))
    sys.exit(f"not as promised: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
