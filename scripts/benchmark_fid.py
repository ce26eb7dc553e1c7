"""Ten folders of digit images scored by one call of `erase.fid`, beside ten calls of torch-fidelity in one process.

    python scripts/benchmark_fid.py docs/results/benchmark-fid.json

Both use the digits pack's classifier, a reference that is cached, and one process whose imports are done.
torch-fidelity is timed with and without its loader's workers, at its default batch, a smaller and a larger one; its
best counts. Rounds alternate, and the fastest of each side is taken, in seconds and, as other work on the machine
lengthens those, in seconds of CPU (its workers' too). The classifier's forward pass, which both need, is timed alone
and beside the rate of the same core's matrix product: no faster way through the images can be under it. Then the peak
memory of `erase.fid` over 1,000 and over 20,000 images, and how many images a second Inception's architecture takes,
with random weights, on the device at hand.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

OURS, FORWARD = "erase", "the forward pass alone"
FOLDERS, IMAGES, ROUNDS = 10, 500, 6
MEMORY = (1_000, 20_000)
SETTINGS = [(save, batch) for save in (True, False) for batch in (32, 64, 250)]  # save_cpu_ram=True: no workers


def make_images(root: Path) -> None:
    """Real digits, moved and dimmed at random: ten folders, and the reference."""
    import numpy as np
    from PIL import Image

    from erase.data.images import digits

    real = digits().arrays.permute(0, 2, 3, 1).numpy()
    draws = np.random.default_rng(0)
    for folder in range(FOLDERS):
        (root / f"{folder}").mkdir()
        for number, row in enumerate(draws.permutation(len(real))[:IMAGES]):
            moved = np.roll(real[row], draws.integers(-2, 3, 2), (0, 1)) * draws.uniform(0.7, 1)
            Image.fromarray(moved.astype(np.uint8)).save(root / f"{folder}" / f"{number:05d}.png")
    (root / "real").mkdir()
    for number, image in enumerate(real):
        Image.fromarray(image).save(root / "real" / f"{number:05d}.png")
    for count in MEMORY:
        for number in range(count):
            source = root / f"{number // IMAGES % FOLDERS}" / f"{number % IMAGES:05d}.png"
            target = root / f"many-{count}" / f"{number // 1000:02d}" / f"{number:05d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    shutil.copytree(root / "0", root / "small", ignore=lambda _, names: [x for x in names if x >= "00064"])


def compare(root: Path) -> dict[str, object]:
    """Seconds and values of both sides."""
    import torch
    import torch_fidelity

    import erase
    from erase.classifier import load_instrument
    from erase.files import shipped
    from erase.metrics.extractor import register

    folders = [str(root / f"{number}") for number in range(FOLDERS)]
    name = register(load_instrument(shipped("assets") / "digits" / "classifier"))
    common = {
        "input2": str(root / "real"), "input2_cache_name": "real", "cache_root": str(root / "their-cache"),
        "feature_extractor": name, "fid": True, "cuda": False, "verbose": False,
    }  # fmt: skip

    def ours() -> list[float]:
        shutil.rmtree(Path(os.environ["ERASE_CACHE"]) / "digests", ignore_errors=True)  # the folders are new
        return [row["fid"] for row in erase.fid(folders, root / "real", "digits", device="cpu")]

    def theirs(save: bool, batch: int) -> list[float]:
        rows = [
            torch_fidelity.calculate_metrics(input1=one, save_cpu_ram=save, batch_size=batch, **common)
            for one in folders
        ]
        return [row["frechet_inception_distance"] for row in rows]

    ways: dict[str, Callable[[], list[float]]] = {
        f"torch-fidelity, {'no' if save else 'its'} workers, batch {batch}": partial(theirs, save, batch)
        for save, batch in SETTINGS
    }
    ways[OURS] = ours
    load = os.getloadavg()[0]  # before our own
    first, second = ours(), theirs(True, 64)  # fills both caches of the reference
    spent: dict[str, list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for label, way in [*ways.items(), (FORWARD, partial(forward, folders))]:
            spent.setdefault(label, []).append(clocked(way))
    fastest = {label: min(wall for wall, _ in pairs) for label, pairs in spent.items()}
    busy = {label: min(cpu for _, cpu in pairs) for label, pairs in spent.items()}
    best, leanest = (
        min((x for x in found if x in ways and x != OURS), key=found.__getitem__) for found in (fastest, busy)
    )
    work = flops()
    return {
        "folders": FOLDERS,
        "images_a_folder": IMAGES,
        "rounds": ROUNDS,
        "seconds": {label: [round(wall, 3) for wall, _ in pairs] for label, pairs in spent.items() if label in ways},
        "cpu_seconds": {label: round(value, 3) for label, value in busy.items()},
        "best_setting": best,
        "ratio": round(fastest[best] / fastest[OURS], 2),
        "ratio_of_cpu_seconds": round(busy[leanest] / busy[OURS], 2),
        "ratio_of_cpu_seconds_if_all_but_the_forward_pass_were_free": round(busy[leanest] / busy[FORWARD], 2),
        "forward_pass": {
            "share_of_erase": round(busy[FORWARD] / busy[OURS], 2),
            "share_of_torch_fidelity": round(busy[FORWARD] / busy[leanest], 2),
            "gflop_a_second_and_core": round(FOLDERS * IMAGES * work / busy[FORWARD] / 1e9, 1),
            "matrix_product_gflop_a_second_and_core": round(matrix_rate() / 1e9, 1),
        },
        "images_per_second": round(FOLDERS * IMAGES / fastest[OURS]),
        "largest_relative_difference": max(abs(a - b) / b for a, b in zip(first, second, strict=True)),
        "fid": first,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "load": round(load, 2),
        "caveat": "the machine was busy with other work" if load > 1.5 else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "torch-fidelity": "0.4.0"},
    }


def clocked(way: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of CPU with those of finished children."""

    def busy() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    wall, cpu = time.perf_counter(), busy()
    way()
    return time.perf_counter() - wall, busy() - cpu


def forward(folders: list[str]) -> None:
    """The extractor alone, as often as the ten folders need it, over images that are in memory."""
    from erase.extractors import find_extractor
    from erase.pictures import folder_pictures

    images = folder_pictures(Path(folders[0])).read(0, IMAGES).split(64)
    extractor = find_extractor("digits", device="cpu")
    for _ in folders:
        for batch in images:
            extractor(batch)


def flops() -> float:
    """Floating-point operations of the extractor an image: two a multiplication with addition."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from erase.classifier import load_instrument
    from erase.files import shipped

    network = load_instrument(shipped("assets") / "digits" / "classifier").network
    with FlopCounterMode(display=False) as counted:
        network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return float(counted.get_total_flops())


def matrix_rate(side: int = 1024) -> float:
    """Floating-point operations a second of CPU of a matrix product in float32: the best of 20."""
    import torch

    left, right = torch.ones(side, side), torch.ones(side, side)
    return 2 * side**3 / min(clocked(lambda: left @ right)[1] for _ in range(20))


def memory(root: Path, count: int) -> dict[str, object]:
    """Peak memory of this process after scoring ``count`` images, in MiB."""
    import erase

    erase.fid(root / f"many-{count}", root / "real", "digits", device="cpu")
    return {"images": count, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def inception(root: Path) -> dict[str, object]:
    """Images a second through Inception, reading and statistics included."""
    from erase.extractors import load_inception, pick_device
    from erase.pictures import folder_pictures
    from erase.streaming import batch_size, moments

    device = pick_device("auto")
    extractor = load_inception(None, device)
    pictures = folder_pictures(root / ("many-20000" if device.type == "cuda" else "small"))
    next(moments([folder_pictures(root / "small")], extractor))  # warm
    begin = time.perf_counter()
    next(moments([pictures], extractor))[1].statistics()
    rate = len(pictures) / (time.perf_counter() - begin)
    return {"device": device.type, "images_per_second": round(rate, 1), "batch": batch_size(extractor, None)}


def child(root: Path, *words: str) -> dict[str, object]:
    environment = {**os.environ, "ERASE_CACHE": str(root / "cache")}
    command = [sys.executable, __file__, "child", str(root), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    if words[:1] == ["child"]:
        root, what = Path(words[1]), words[2]
        if what == "memory":
            found = memory(root, int(words[3]))
        else:
            found = compare(root) if what == "compare" else inception(root)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as name:
        make_images(Path(name))
        result = child(Path(name), "compare")
        result["memory"] = [child(Path(name), "memory", str(count)) for count in MEMORY]
        result["inception_with_random_weights"] = child(Path(name), "inception")
    text = json.dumps(result, indent=2)
    print(text)
    if words:
        Path(words[0]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
