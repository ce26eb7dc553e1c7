"""Memory of a training process over caches of 1,000, 5,000 and 20,000 encoded images, as at ImageNet 256.

    python scripts/latent_memory.py docs/results/latent-memory.json

The moments are written by the package's own encoder loop, in its shards, at full size: mean and deviation of 4 x 32 x
32 of each image and of its mirror image. A stub stands in for the VAE, which would take hours here and is not there
when a run trains. A fresh process for each size then finds them in the cache, splits them as a run does, and draws
batches until every row has been used once. Its memory is read after every batch.

Two figures: *anonymous* memory is the process's own and cannot be had back; *resident* memory also counts the pages of
the mapped shards that happen to be in the page cache, which the system takes back when it needs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

COUNTS = (1_000, 5_000, 20_000)
CLASSES, SIDE, BATCH = 10, 8, 32
SHAPE = (4, 32, 32)


def images(count: int) -> Any:
    """Images that hold nothing: what is measured is what becomes of their moments."""
    import numpy as np
    import torch

    from erase.data.images import ImageSet

    labels = np.arange(count) % CLASSES
    pixels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8).expand(count, -1, -1, -1)
    names = {label: str(label) for label in range(CLASSES)}
    return ImageSet(names, labels, np.zeros(count, dtype=bool), SIDE, f"synthetic-{count}", arrays=pixels)


class Stub:
    """Gives moments of the right shape, counted up so that no two batches are the same."""

    config = SimpleNamespace(scaling_factor=0.18215)
    seen = 0

    def parameters(self) -> Any:
        import torch

        return iter([torch.zeros(1)])

    def encode(self, pixels: Any) -> Any:
        import torch

        self.seen += len(pixels)
        mean = torch.full((len(pixels), *SHAPE), float(self.seen))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.ones_like(mean)))


def split(count: int, vae: Stub) -> Any:
    from erase.data.split import encode_split

    return encode_split(vae, "stub", images(count), range(CLASSES), [0], CLASSES, flip=True)


def status(name: str) -> float:
    """A line of /proc/self/status in MiB."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def train(count: int) -> dict[str, object]:
    """Memory of this process, while it draws every row of the cache once."""
    from erase.ahead import ahead

    vae = Stub()
    sets = split(count, vae)
    assert vae.seen == 0, "an image was encoded twice"
    begin, peak, steps = time.monotonic(), status("RssAnon"), 0
    for side in ("forget", "retain"):
        stream = sets.stream(sets.sets[side], side, 0, BATCH)
        number = -(-len(sets.sets[side]) // BATCH)
        for _, batch in ahead(stream.batch, range(number), threads=1):
            assert batch.x0.shape == (BATCH, *SHAPE)
            peak, steps = max(peak, status("RssAnon")), steps + 1
    return {
        "images": count,
        "rows": sum(len(one) for one in sets.sets.values()),
        "batches": steps,
        "peak_anonymous_mib": round(peak, 1),
        "peak_resident_mib": round(status("VmHWM"), 1),
        "seconds": round(time.monotonic() - begin, 1),
    }


def child(cache: Path, what: str, count: int) -> dict[str, object]:
    environment = {**os.environ, "ERASE_CACHE": str(cache)}
    command = [sys.executable, __file__, "child", what, str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(cache: Path, counts: tuple[int, ...]) -> dict[str, object]:
    rows = []
    for count in counts:
        encoded = child(cache / str(count), "encode", count)["encoded"]
        size = sum(path.stat().st_size for path in (cache / str(count)).rglob("*.safetensors"))
        rows.append({**child(cache / str(count), "train", count), "encoded": encoded, "cache_mib": size >> 20})
    first, last = rows[0], rows[-1]
    grown = float(str(last["peak_anonymous_mib"])) - float(str(first["peak_anonymous_mib"]))
    more = int(str(last["images"])) - int(str(first["images"]))
    return {
        "moments": [2, 2, *SHAPE],
        "batch": BATCH,
        "sizes": rows,
        "anonymous_bytes_for_each_further_image": round(grown * 2**20 / more) if more else None,
        "cache_bytes_an_image": 2 * 2 * 4 * SHAPE[0] * SHAPE[1] * SHAPE[2],
    }


def main(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    if words[:1] == ["child"]:
        count = int(words[2])
        if words[1] == "train":
            found = train(count)
        else:
            vae = Stub()
            split(count, vae)
            found = {"encoded": vae.seen // 2}  # once as it is and once mirrored; the last batch is filled up
        print(json.dumps(found))
        return
    counts = tuple(int(word) for word in words[1:]) or COUNTS
    with tempfile.TemporaryDirectory() as name:
        text = json.dumps(measure(Path(name), counts), indent=2)
    print(text)
    if words:
        Path(words[0]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
