"""Fills the disk at each writing stage of each command, and continues after space is made.

    sudo python scripts/disk_full.py --output docs/results/disk_full.json

Mounts a small tmpfs (hence sudo; or give --folder of a small file system of your own). At each stage the rest of the
disk is filled the moment a file of that stage is opened for writing, so that what fails is a real write of the real
kernel. Then: exit code 1 (2 where nothing was begun) and one line that names a file; every file that is there can be
read; with the space made, the same command ends with the results of a run that nothing disturbed.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"], os.environ["TQDM_DISABLE"] = "1", "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image  # noqa: E402

from erase import files  # noqa: E402
from erase.files import digest, read_tensors, write_json  # noqa: E402
from tests.bad_input import FID, RUN  # noqa: E402
from tests.fuzzing import call, make_world  # noqa: E402

LONG = (*RUN, "unlearn.rounds=2", "unlearn.forget.batch_size=2", "runtime.save_every=1", "runtime.keep_state=true")
COMMANDS = {
    "run": LONG,
    "sample": ("sample", "pack", "-o", "out", "--per-class", "2", "sample.steps=1"),
    "fid": (*FID, "--output", "out/rows.jsonl"),
    "convert to .pt": ("convert", "x.pt", "out/y.pt", "--num-heads", "2"),
    "convert to a folder": ("convert", "x.pt", "out/y", "--num-heads", "2"),
    "grid": ("grid", "run", "-o", "out/grid.png"),
}
STAGES = {  # a part of the path of a file whose opening fills the disk
    "run": (
        "out/.config.yaml", "cache/digests", "cache/samples", "cache/latents", "cache/precomputed", "out/metrics.jsonl",
        "out/state", "out/samples/erased", "out/.grid.png", "out/.model", "out/.results.json",
    ),
    "sample": ("out/.samples.json", "out/0000", "out/0002"),
    "fid": ("cache/digests", "cache/statistics", "out/rows.jsonl"),
    "convert to .pt": ("out/.y.pt",),
    "convert to a folder": ("out/.y",),
    "grid": ("out/.grid.png",),
}  # fmt: skip
files.SETTLED = -(10**12)  # files that were made a moment ago are kept in mind too
WRITING = os.O_WRONLY | os.O_RDWR


class Disk:
    """A small file system that fills up when told."""

    def __init__(self, root):
        self.root, self.mark, self.hit = root, None, None
        sys.addaudithook(self.watch)

    def watch(self, event, args):
        if self.mark is None or event not in ("open", "tempfile.mkstemp", "tempfile.mkdtemp"):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
            return
        path = os.path.abspath(os.fsdecode(args[0])) if isinstance(args[0], str | bytes | os.PathLike) else ""
        if path.startswith(str(self.root)) and self.mark in path:
            self.mark, self.hit = None, path
            self.fill()

    def fill(self):
        handle = os.open(self.root / "filler", os.O_WRONLY | os.O_CREAT)
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(handle, b"\1" * size)
        os.close(handle)

    def clear(self):
        (self.root / "filler").unlink(missing_ok=True)


def begin(disk, world):
    """A fresh copy of the inputs and an empty cache on the small disk."""
    for path in disk.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    here = disk.root / "here"
    shutil.copytree(world, here)
    os.environ["ERASE_CACHE"] = str(disk.root / "cache")
    os.chdir(here)
    return here


def outcome(folder):
    """What must be the same however often a command was stopped: scores, weights, images, rows."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or name.startswith("state/") or name.endswith("README.md"):
            continue
        if path.name == "results.json":
            content = json.loads(path.read_text())
            found[name] = {key: content[key] for key in ("models", "config_hash", "protocol")}
        elif path.suffix == ".jsonl":
            found[name] = [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
        elif path.suffix in (".png", ".safetensors"):
            found[name] = digest(path)
    return found


def check_files(folder):
    """Every file under ``folder`` can be read, but for the last line of a JSON-lines file; how many there are."""
    count = 0
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if not path.is_file():
            continue
        count += 1
        assert not path.name.startswith("."), f"left behind: {path}"
        if path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return count


def try_stage(disk, world, command, stage, expected):
    words = COMMANDS[command]
    here = begin(disk, world)
    disk.mark, disk.hit = stage, None
    code, _, err = call(words)
    disk.mark = None
    assert disk.hit is not None, f"{command}: nothing was written to {stage}"
    lines = [line for line in err.splitlines() if line.strip()]
    lines = [line for line in lines if line.startswith("erase: ")]
    first = stage in ("out/.config.yaml", "out/.samples.json")
    assert code == (2 if first else 1), (command, stage, code, err)
    assert len(lines) == 1, (command, stage, err)
    assert "No space left on device" in lines[0], (command, stage, err)
    assert "Traceback" not in err, err
    disk.clear()
    kept = check_files(here / "out") + check_files(disk.root / "cache")
    assert not (here / "out" / "results.json").exists()
    code, _, err = call(words)
    assert code == 0, (command, stage, "does not continue", err)
    assert outcome(here / "out") == expected, (command, stage, "other results")
    return {"command": command, "stage": stage, "said": lines[0].replace(str(disk.root), "DISK"), "files_kept": kept}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="an empty small file system; default: a tmpfs of --size")
    parser.add_argument("--size", default="64m")
    parser.add_argument("--command", choices=sorted(COMMANDS), action="append")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    output = asked.output.resolve() if asked.output else None
    rows, faults = [], []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        root = asked.folder or Path(scratch) / "disk"
        if asked.folder is None:
            root.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={asked.size}", "tmpfs", str(root)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(root)], check=False)
        stack.callback(os.chdir, "/")
        world = make_world(Path(scratch) / "world")
        disk = Disk(root)
        for command in asked.command or COMMANDS:
            here = begin(disk, world)
            code, _, err = call(COMMANDS[command])
            assert code == 0, err
            expected = outcome(here / "out")
            for stage in STAGES[command]:
                try:
                    rows.append(try_stage(disk, world, command, stage, expected))
                    print(f"{command}, {stage}: {rows[-1]['said']}", flush=True)
                except AssertionError as error:
                    faults.append(f"{command}, {stage}: {error}")
                    print(f"FAULT {faults[-1]}", flush=True)
                disk.clear()
    if output:
        command = "python scripts/disk_full.py " + " ".join(sys.argv[1:])
        write_json(output, {"command": command, "stages": len(rows), "faults": len(faults), "rows": rows})
    print(f"{len(rows)} stages, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
