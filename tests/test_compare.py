"""erase grid: what stands in which panel, and what is refused."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from erase.config import RunConfig, as_mapping
from erase.errors import UserError
from erase.model import save_model
from erase.presets import resolve
from erase.report.compare import grid
from erase.sampling import image_path
from erase.unlearning import watch

from .helpers import make_model, write_image
from .test_cli import call  # noqa: F401

COLOURS = {"original": (255, 0, 0), "a": (0, 255, 0), "b": (0, 0, 255)}


def make_run(root, name, model="digits", **sample):
    """A finished run's folder whose images are of one colour a side."""
    folder = root / name
    config = resolve(RunConfig(["1"], sample={"per_class": 2, "steps": 2, **sample}))
    mapping = as_mapping(config) | {"model": {"source": str(model), "vae": None, "num_heads": None}}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(mapping))
    results = {"forget": [{"index": 1, "name": "one"}], "method": name, "optimizer": "dual", "seed": 0}
    (folder / "results.json").write_text(json.dumps(results))
    save_model(make_model(), folder / "model")
    for side, colour in (("original", COLOURS["original"]), ("erased", COLOURS[name])):
        for label in (0, 1, 2):
            for number in range(8):
                write_image(image_path(folder / "samples" / side, label, number), np.full((8, 8, 3), colour))
    return folder


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def columns_of(page, colour):
    return np.flatnonzero((page == np.array(colour)).all(2).any(0))


def test_runs_stand_side_by_side_after_their_common_original(tmp_path):
    runs = [str(make_run(tmp_path, name)) for name in ("a", "b")]
    out = grid(runs, tmp_path / "x.png", "runs")
    page = pixels(out)
    original, first, second = (columns_of(page, COLOURS[name]) for name in ("original", "a", "b"))
    assert original.max() < first.min() <= first.max() < second.min()
    assert len(original) == len(first) == len(second) == 5 * 64


def test_the_command_says_what_it_wrote(call, tmp_path):  # noqa: F811
    run = make_run(tmp_path, "a")
    code, out, _ = call("grid", run, "-o", tmp_path / "x.png", "--json")
    assert (code, json.loads(out)) == (0, {"output": str(tmp_path / "x.png"), "kind": "runs"})


def test_runs_of_other_samples_are_not_put_beside_each_other(tmp_path):
    runs = [str(make_run(tmp_path, "a")), str(make_run(tmp_path, "b", seed=4))]
    with pytest.raises(UserError, match="differ in their model or samples"):
        grid(runs, tmp_path / "x.png", "runs")
    assert not (tmp_path / "x.png").exists()


def test_the_class_fades_over_the_snapshots(tmp_path):
    run = make_run(tmp_path, "a")
    with pytest.raises(UserError, match="holds no snapshots; make the run with --snapshot-every"):
        grid([str(run)], tmp_path / "x.png", "fading")
    for step in (0, 10, 2000):
        for label in (0, 1):
            for number in range(4):
                colour = np.full((8, 8, 3), (step // 20, 90, 10))
                write_image(image_path(run / "snapshots" / f"{step:06d}", label, number), colour)
    page = pixels(grid([str(run)], tmp_path / "x.png", "fading"))
    places = [columns_of(page, (step // 20, 90, 10)) for step in (0, 2000)]
    assert places[0].max() < places[1].min()
    assert (page == np.array((200, 40, 40))).all(2).sum() > 100  # the forgotten rows are marked


def test_a_guidance_sweep_draws_both_models(tmp_path):
    save_model(make_model(), tmp_path / "original")
    run = make_run(tmp_path, "a", model=tmp_path / "original")
    page = pixels(grid([str(run)], tmp_path / "x.png", "guidance"))
    assert page.shape[1] > 10 * 2 * 64  # five scales of two models, two images each


@pytest.mark.parametrize(
    ("kind", "count", "name", "said"),
    [
        ("runs", 1, "x.gif", "--output must end in .png"),
        ("fading", 2, "x.png", "--kind fading takes one run, not 2"),
        ("guidance", 2, "x.png", "--kind guidance takes one run, not 2"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, kind, count, name, said):
    runs = [str(make_run(tmp_path, letter)) for letter in "ab"[:count]]
    with pytest.raises(UserError, match=said):
        grid(runs, tmp_path / name, kind)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        grid([str(tmp_path)], tmp_path / "x.png", "runs")


def test_snapshots_are_taken_when_asked_for_and_never_twice(tmp_path):
    asked = {"steps": 2}
    config = resolve(RunConfig(["1"], sample=asked, runtime={"snapshot_every": 10}))
    model = make_model()
    for step in (0, 1, 10):
        watch(config, model, tmp_path, step)
    found = sorted(path.relative_to(tmp_path / "snapshots").as_posix() for path in tmp_path.rglob("*.png"))
    assert len(found) == 2 * 2 * 4
    assert found[0] == "000000/0000/00000.png"
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    watch(config, model, tmp_path, 10)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    watch(resolve(RunConfig(["1"], sample=asked)), model, tmp_path / "none", 0)
    assert not (tmp_path / "none").exists()
