"""A run's folder of known numbers, and what a browser would read of a page."""

import json
from html.parser import HTMLParser

import numpy as np
import yaml

from erase.config import RunConfig, as_mapping
from erase.presets import resolve
from erase.sampling import image_path

from .helpers import write_image

VOID = {"meta", "img", "br", "link", "input", "hr", "source"}
COLOURS = {"original": (200, 30, 30), "erased": (30, 30, 200)}
NAMES = {0: "zero", 1: "one", 2: "two"}


def scored(fa, ra, fid, top1=None, gate=0.0, n=200, accuracy=None):
    """A side of results.json."""
    values = {"fa": fa, "fa_top1": fa if top1 is None else top1, "not_an_image": gate, "ra": ra, "fid": fid}
    metrics = {k: {"value": v, "n": n, "low": 0.9 * v, "high": min(1.1 * v, 9)} for k, v in values.items()}
    return {**values, "per_class_accuracy": accuracy or {"0": ra, "1": fa, "2": ra}, "metrics": metrics}


def make_run(root, original=None, erased=None, names=None, words=None, finished=True):
    """A run that forgot class 1 of three: two rounds, snapshots, two images a class of one colour a side."""
    names = NAMES if names is None else names
    folder = root / "run"
    config = as_mapping(resolve(RunConfig(["1"]), words)) | {"forget": ["1"]}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {
            "step": i,
            "round": i // 2,
            "objective": ("forget", "retain")[i % 2],
            "loss": 0.5 - 0.01 * i,
            "lr": 1e-3,
            "g": i,
        }
        for i in range(6)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (0, 4):
        for label in (0, 1):
            write_image(image_path(folder / "snapshots" / f"{step:06d}", label, 0), np.full((8, 8, 3), 40 * step))
    if not finished:
        return folder
    (folder / "model").mkdir()
    index = {"id2label": {str(label): name for label, name in names.items()}}
    (folder / "model" / "model_index.json").write_text(json.dumps(index))
    for side, colour in COLOURS.items():
        for label in names:
            for number in range(2):
                write_image(image_path(folder / "samples" / side, label, number), np.full((8, 8, 3), colour))
    write_image(folder / "grid.png", np.full((20, 30, 3), 99))
    results = {
        "version": 1, "complete": True, "config_hash": "cafe", "forget": [{"index": 1, "name": names[1]}],
        "nearest": [2, 0], "method": "sfron", "optimizer": "dual", "seed": 0,
        "protocol": {"samples": {"forget": 2, "retain_total": 4}, "extractor": None, "guidance_scale": 1.5},
        "models": {"original": original or scored(0.98, 0.97, 1.76), "erased": erased or scored(0.0, 0.96, 1.89)},
        "seconds": {"unlearn": 12.34, "total": 20.0}, "device": "cpu", "versions": {"erase": "9.9"},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


class Page(HTMLParser):
    """Elements with their attributes, the visible text, and what is wrong with the nesting."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self.open, self.faults = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.faults += [f"{tag} is never closed" for tag in self.open]
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag, class_=""):
        return [
            a for name, a in self.elements if name == tag and set(class_.split()) <= set((a.get("class") or "").split())
        ]
