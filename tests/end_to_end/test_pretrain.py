"""`erase pretrain`: a pack from any image folder, continued where it was stopped."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import erase
from erase.classifier import load_instrument
from erase.config import merge, parse_words
from erase.data.images import load_images
from erase.data.latents import Batch, LatentStream
from erase.presets import resolve_pretrain
from erase.reference import read_reference

from .conftest import quick as command

TINY = (
    "vae.steps=4", "vae.channels=[8,8,8]", "dit.steps=4", "dit.layers=2", "dit.width=32", "dit.heads=2",
    "classifier.steps=4", "classifier.width=8", "sample.per_class=2", "sample.steps=2", "runtime.save_every=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("ash", "birch", "cedar")):
        (root / name).mkdir()
        for i in range(10):
            Image.new("RGB", (40 + i, 50), (60 * number, 10 * i, 90)).save(root / name / f"{i}.png")
    return root


def test_a_pack_from_a_folder_runs_and_forgets(pictures: Path, tmp_path: Path) -> None:
    made = command("pretrain", "--data", os.path.relpath(pictures, tmp_path), "-o", "trees", *TINY, cwd=tmp_path)
    assert made.returncode == 0, made.stderr[-2000:]
    model = erase.load_model(str(tmp_path / "trees"))
    assert model.labels == {0: "ash", 1: "birch", 2: "cedar"}
    assert model.pack["data"]["source"] == str(pictures.resolve())
    words = ("--model", "../trees", "unlearn.rounds=2", "unlearn.finish=0")
    small = ("method.fisher_samples=16", "sample.per_class=2", "sample.steps=2")
    images = load_images(str(pictures), 32)
    features = load_instrument(tmp_path / "trees" / "classifier").read(images.batches(range(30))).features
    kept = read_reference(tmp_path / "trees").statistics([0, 2])
    assert np.allclose(kept["sigma"], np.cov(features[images.labels != 1].astype(float).T), rtol=1e-6, atol=1e-12)
    (tmp_path / "elsewhere").mkdir()
    done = command("run", "-f", "birch", *words, *small, "-o", "../run", cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["forget"] == [{"index": 1, "name": "birch"}]
    assert np.array_equal(read_reference(tmp_path / "run" / "model").outer, read_reference(tmp_path / "trees").outer)


def recipe(pictures: Path, *more: str) -> erase.PretrainConfig:
    values = merge({"data": str(pictures), "exclude": ["ash"]}, parse_words([*TINY, *more]))
    return resolve_pretrain(values)


def test_training_continues_to_the_same_pack_and_excludes_a_class(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase.pretrain(recipe(pictures), tmp_path / "whole")
    batch, seen = LatentStream.batch, []

    def interrupted(stream: LatentStream, step: int) -> Batch:
        if stream.name == "dit" and step == 3 and not seen:
            seen.append(step)
            raise KeyboardInterrupt
        result = batch(stream, step)
        assert not (result.labels == 0).any(), "the excluded class is never seen"
        return result

    monkeypatch.setattr(LatentStream, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        erase.pretrain(recipe(pictures), tmp_path / "part")
    assert not (tmp_path / "part").exists(), "nothing half-made under the pack's name"
    erase.pretrain(recipe(pictures), tmp_path / "part")
    for part in ("transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "classifier/model"):
        assert (tmp_path / "whole" / f"{part}.safetensors").read_bytes() == (
            tmp_path / "part" / f"{part}.safetensors"
        ).read_bytes()
    assert json.loads((tmp_path / "whole" / "erase.json").read_text())["excluded"] == [0]
    with pytest.raises(erase.UserError, match=r"dit\.steps"):
        erase.pretrain(recipe(pictures, "dit.steps=5"), tmp_path / "whole")


def test_another_pack_lends_its_instruments(pictures: Path, tmp_path: Path) -> None:
    erase.pretrain(recipe(pictures), tmp_path / "first")
    erase.pretrain(recipe(pictures, f"instruments={tmp_path / 'first'}", "seed=1"), tmp_path / "second")
    same = [
        (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
        for name in ("vae/diffusion_pytorch_model.safetensors", "classifier/model.safetensors")
    ]
    assert same == [True, True]
