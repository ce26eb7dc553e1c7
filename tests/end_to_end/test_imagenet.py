"""A class of ImageNet by its name, from each format of the model, on a tiny model and a few small JPEGs."""

import json
import os
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import erase
from erase.convert import convert
from erase.data.images import read_image
from erase.imagenet import class_names, wnids
from erase.metrics.fid import distance, statistics
from erase.published import KNOWN, Known, load_published
from erase.rng import image_seed
from erase.table.pool import inline
from erase.table.run import run_table

from ..helpers import make_model
from ..test_published import Tiny, tiny_weights
from ..test_sources import HUB_ID, hub_cache, old_layout
from .conftest import quick as command

CLASSES = {207: 12, 208: 10, 89: 10, 340: 10}
FORMATS = ("folder", "hub", "pt")
SETTINGS = (
    "unlearn.rounds=2", "unlearn.forget.batch_size=4", "unlearn.retain.batch_size=4", "method.fisher_samples=4",
    "data.retain_images=16", "sample.per_class=4", "sample.retain_total=8", "sample.steps=2", "sample.block=5",
    "score.bootstrap=4", "score.gate_images=24", "score.classifier_weights=weights.pth", "runtime.device=cpu",
    "score.extractor=convnext_tiny", "score.extractor_weights=other.pth",
)  # fmt: skip


def write_data(root: Path) -> None:
    """ImageNet's layout: wnids, JPEGs of any size, a tint a class so that the classes differ."""
    draws = np.random.default_rng(0)
    for label, count in CLASSES.items():
        folder = root / wnids()[label]
        folder.mkdir(parents=True)
        for number in range(count):
            height, width = draws.integers(20, 60, size=2)
            pixels = np.clip(draws.normal(label % 200 + 20, 30, size=(height, width, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{wnids()[label]}_{number}.JPEG")


def write_model(kind: str, home: Path) -> tuple[str, ...]:
    """The words that name the model: a tiny one with 1,000 classes in this format."""
    model = make_model(label_slots=1000, classes=range(1000))
    model.labels = class_names()
    if kind == "hub":
        hub_cache(home / "hub", lambda root: old_layout((erase.save_model(model, root), root)[1]))
        return ("--model", HUB_ID)
    erase.save_model(model, home / "dit")
    if kind == "folder":
        return ("--model", "dit")
    convert(str(home / "dit"), str(home / "tiny.pt"), allow_difference=True)
    return ("--model", "tiny.pt", "model.vae=dit/vae", "model.num_heads=2")


@pytest.fixture(scope="module", params=FORMATS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The words of a finished run, its home, and its results."""
    home = tmp_path_factory.mktemp(request.param)
    write_data(home / "data")
    tiny_weights(home / "weights.pth")
    tiny_weights(home / "other.pth", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("resnet34", "convnext_tiny"):
            patch.setitem(KNOWN, name, Known(Tiny, KNOWN[name].url, "avgpool", "fc"))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setenv("ERASE_CACHE", str(home / "cache"))
        model = write_model(request.param, home)
        words = ("run", "--forget", "golden retriever", *model, "--data", "data", "-o", "run", "--json", *SETTINGS)
        done = command(*words, cwd=home)
        assert done.returncode == 0, done.stderr[-2000:]
        yield words, home, json.loads(done.stdout)


def test_the_results_are_complete_and_say_what_was_evaluated(finished) -> None:  # type: ignore[no-untyped-def]
    _, _, results = finished
    assert results["complete"] is True
    assert results["forget"] == [{"index": 207, "name": "golden retriever"}]
    assert (results["method"], results["optimizer"]) == ("sfron", "dual")
    protocol = results["protocol"]
    assert protocol["samples"] == {"forget": 4, "retain_total": 8}
    assert protocol["retained_classes"] == 3
    assert (protocol["sampler"], protocol["steps"], protocol["guidance_scale"]) == ("dpm++", 2, 1.5)
    assert protocol["classifier"].startswith("resnet34-")
    assert protocol["extractor"].startswith("convnext_tiny-")
    assert protocol["reference_count"] == 30
    assert protocol["gate_images"] == sum(CLASSES.values())
    for row in results["models"].values():
        assert sorted(map(int, row["per_class_accuracy"])) == sorted(CLASSES)
        assert row["metrics"]["fa"]["n"] == 4
        assert row["metrics"]["ra"]["n"] == row["metrics"]["fid"]["n"] == 8
        assert all(0 <= row[name] <= 1 for name in ("fa", "fa_top1", "not_an_image", "ra"))
        assert row["metrics"]["fid"]["low"] <= row["fid"] <= row["metrics"]["fid"]["high"]
    assert results["models"]["original"]["fid"] != results["models"]["erased"]["fid"]


def test_the_folder_holds_what_a_run_on_digits_holds(finished) -> None:  # type: ignore[no-untyped-def]
    _, home, _ = finished
    run = home / "run"
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "metrics.jsonl", "precomputed", "model", "samples", "grid.png", "results.json",
    }  # fmt: skip
    for side in ("original", "erased"):
        drawn = {p.name: len(list(p.glob("*.png"))) for p in (run / "samples" / side).iterdir() if p.is_dir()}
        assert drawn.pop("0207") == 4
        assert sorted(drawn) == ["0089", "0208", "0340"]
        assert sorted(drawn.values()) == [2, 3, 3]
    with Image.open(run / "grid.png") as grid:
        assert grid.height > 4 * 64
    card = (run / "model" / "README.md").read_text()
    assert "forgot: golden retriever (class 207)" in card


def test_the_saved_model_opens_in_stock_diffusers_and_draws_its_samples(finished) -> None:  # type: ignore[no-untyped-def]
    words, home, _ = finished
    pipe = diffusers.DiTPipeline.from_pretrained(home / "run" / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.labels["golden retriever"] == 207
    model = erase.load_model(str(home / "run" / "model"))
    assert model.classes == list(range(1000))
    seeds = [image_seed(0, 207, i) for i in range(2)]
    ours = erase.sample(model, [207, 207], seeds, 1.5, 2)
    for number, image in enumerate(ours):
        with Image.open(home / "run" / "samples" / "erased" / "0207" / f"{number:05d}.png") as opened:
            assert np.abs(np.asarray(opened).astype(int) - image).max() <= 1
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    theirs = pipe([207, 207], guidance_scale=1.5, num_inference_steps=2, generator=generators, output_type="np").images
    if "tiny.pt" not in words:  # of an original checkpoint the model card states a difference
        assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 2


def test_the_same_command_again_returns_the_same(finished) -> None:  # type: ignore[no-untyped-def]
    words, home, results = finished
    stamp = os.stat(home / "run" / "results.json").st_mtime_ns
    done = command(*words, cwd=home)
    assert (done.returncode, json.loads(done.stdout)) == (0, results)
    assert os.stat(home / "run" / "results.json").st_mtime_ns == stamp


def test_another_run_of_the_same_gives_the_same_numbers(finished) -> None:  # type: ignore[no-untyped-def]
    words, home, results = finished
    by_wnid = [{"run": "again", "golden retriever": wnids()[207]}.get(w, w) for w in words[1:]]
    done = command("run", *by_wnid, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    again = json.loads(done.stdout)
    for key in ("models", "protocol", "forget", "config_hash"):
        assert again[key] == results[key]


@pytest.mark.parametrize("finished", ["folder"], indirect=True)
def test_without_the_classifier_s_weights_nothing_is_computed(finished, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    words, home, _ = finished
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setattr("erase.unlearning.claim_folder", None)  # what comes first after the checks
    words = tuple("none" if w == "run" and i else w for i, w in enumerate(words) if "_weights" not in w)
    words = tuple("score.extractor=inception-v3-compat" if "extractor=" in w else w for w in words)
    done = command(*words, cwd=home)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "fetch https://download.pytorch.org/models/resnet34-b627a593.pth and put it at" in done.stderr
    assert "inception-2015-12-05-6726825d.pth and put it at" in done.stderr
    assert not (home / "none").exists()
    missing, other = json.loads(command(*words, "--dry-run", cwd=home).stdout)["missing"]
    assert missing.startswith("classifier: the weights of the classifier resnet34 are missing")
    assert other.startswith("extractor: the Inception weights are missing")


def test_the_distance_is_on_the_extractor_s_features(finished) -> None:  # type: ignore[no-untyped-def]
    """Computed here from the images that the run left and the real ones that it read."""
    _, home, results = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KNOWN, "convnext_tiny", Known(Tiny, KNOWN["convnext_tiny"].url, "avgpool", "fc"))
        network = load_published("convnext_tiny", str(home / "other.pth"))
    real = [p for c in CLASSES if c != 207 for p in (home / "data" / wnids()[c]).iterdir()]
    drawn = [p for p in (home / "run" / "samples" / "erased").glob("*/*.png") if p.parent.name != "0207"]
    features = [network(torch.stack([read_image(path, 16) for path in paths]))[1].numpy() for paths in (drawn, real)]
    wanted = distance(statistics(features[0]), statistics(features[1]))
    assert results["models"]["erased"]["fid"] == pytest.approx(wanted, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("finished", ["folder"], indirect=True)
def test_a_table_s_golden_run_takes_few_images_of_a_class_that_the_folder_has(  # type: ignore[no-untyped-def]
    finished, tmp_path, monkeypatch
) -> None:
    _, home, _ = finished
    for name in ("resnet34", "convnext_tiny"):
        monkeypatch.setitem(KNOWN, name, Known(Tiny, KNOWN[name].url, "avgpool", "fc"))
    monkeypatch.setenv("ERASE_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    words = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in SETTINGS)}
    words |= {"data.source": "data", "sample.retain_total": 10000, "data.retain_images": 20000}
    row = {"method": "sfron", "optimizer": "dual"}
    table = {"model": "dit", "classes": [207], "seeds": [0], "set": words, "rows": [row]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table))
    content = run_table(str(tmp_path / "mine.yaml"), str(tmp_path / "out"), runner=inline)
    assert (content["done"], content["unjudged"], content["failed"]) == (1, 0, {})
    (golden,) = json.loads((tmp_path / "out" / "golden.json").read_text()).values()
    assert golden["hash"] != "failed"
    assert "erased.pixel.0207" in golden["numbers"]


def test_erase_score_gives_the_scores_of_the_run(finished, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """By the run's own gate and against its own reference, though its model brings neither."""
    _, home, results = finished
    for name in ("resnet34", "convnext_tiny"):
        monkeypatch.setitem(KNOWN, name, Known(Tiny, KNOWN[name].url, "avgpool", "fc"))
    monkeypatch.setenv("ERASE_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    for row, side in zip(erase.score("run", device="cpu"), ("original", "erased"), strict=True):
        wanted = results["models"][side]
        for name in ("fa", "fa_top1", "not_an_image", "ra"):
            assert row["metrics"][name]["value"] == pytest.approx(wanted[name]), name
        assert row["metrics"]["fid"]["value"] == pytest.approx(wanted["fid"], rel=1e-3, abs=1e-4)
        assert row["missing"] == {}
