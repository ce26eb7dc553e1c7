"""What a command has left: a digest of each file, and whether each can be read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

TIMES = {"seconds", "peak_memory", "versions"}


def content(folder: Path) -> dict[str, str]:
    """A digest of every file that a command leaves, without its times, and what it leaves beside its folder."""
    found = {f"beside: {path.name}": "" for path in folder.parent.glob(f".{folder.name}.*")}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or name.endswith((".log", ".golden")) or path.name == "golden.json":
            continue
        data = path.read_bytes()
        if path.name == "results.json":
            data = json.dumps(_timeless(json.loads(data))).encode()
        elif path.suffix == ".safetensors":
            length = 8 + int.from_bytes(data[:8], "little")  # the library writes metadata in any order
            data = json.dumps(json.loads(data[8:length]), sort_keys=True).encode() + data[length:]
        elif path.name == "f.jsonl":
            data = json.dumps([_timeless(json.loads(line)) for line in data.splitlines()]).encode()
        elif path.name == "cells.jsonl":
            data = json.dumps(_cells([json.loads(line) for line in data.splitlines()])).encode()
        elif path.parent == folder and path.name.startswith("table."):
            continue  # the rendered table shows times
        found[name] = hashlib.sha256(data).hexdigest()[:16]
    return found


def _cells(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each cell's last entry: one whose process was killed has another before it, which says so."""
    return {entry["key"]: _timeless(entry) for entry in entries}


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
        except Exception as error:
            if path.exists():  # else it went between two looks
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
