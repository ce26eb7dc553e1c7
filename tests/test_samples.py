"""``erase sample``: which images, that they are kept, and which folders are refused."""

import json

import numpy as np
import pytest

import erase
from erase.config import SampleConfig
from erase.data.images import read_image
from erase.errors import UserError
from erase.locks import LOCK, held
from erase.rng import image_seed
from erase.samples import draw_samples
from erase.sampling import image_path

from .helpers import make_model, perturb

FEW = {"sample": {"steps": 2, "block": 4}, "runtime": {"device": "cpu"}}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    protocol = {"seed": 3, "per_class": 5, "steps": 3, "guidance_scale": 2.0, "sampler": "ddim", "block": 4}
    about = {"version": 1, "family": "digits", "classes": [0, 1, 2], "protocol": protocol}
    erase.save_model(make_model(pack=about), root / "pack")
    return str(root / "pack")


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


def test_images_are_those_of_the_pack_s_protocol_and_their_seeds(pack, tmp_path):
    about = draw_samples(pack, tmp_path / "out", words={"runtime": {"device": "cpu"}})
    assert (about["classes"], about["per_class"]) == ([0, 1, 2], 5)
    assert len(files(tmp_path / "out")) == 15
    seeds = [image_seed(3, 1, number) for number in range(4)]
    wanted = erase.sample(erase.load_model(pack), [1] * 4, seeds, 2.0, 3, "ddim")
    for number in range(4):
        found = read_image(image_path(tmp_path / "out", 1, number)).permute(1, 2, 0).numpy()
        assert np.array_equal(found, wanted[number])
    assert not np.array_equal(wanted[0], wanted[1])


def test_compiled_drawing_compiles_and_has_an_arithmetic_of_its_own(pack, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        "torch.nn.Module.compile", lambda module, *args, **kwargs: compiled.append(type(module).__name__)
    )
    monkeypatch.setattr("shutil.which", lambda name: name)  # a C++ compiler
    asked = {**FEW, "runtime": {"device": "cpu", "compile": True}}
    assert (
        draw_samples(pack, tmp_path / "out", ["0"], per_class=1, words=asked)["arithmetic"]
        == "cpu, fp32, compiled whole"
    )
    assert compiled == ["DiTTransformer2DModel"]
    with pytest.raises(UserError, match="arithmetic"):
        draw_samples(pack, tmp_path / "out", ["0"], per_class=2, words=FEW)


@pytest.mark.parametrize(
    ("classes", "exclude", "drawn"),
    [("all", [], {0, 1, 2}), (["2", "name 0"], [], {0, 2}), ("all", ["1"], {0, 2}), (["0", "1"], ["name 0"], {1})],
)
def test_classes_are_chosen_by_index_or_name(pack, tmp_path, classes, exclude, drawn):
    draw_samples(pack, tmp_path / "out", classes, exclude, 1, words=FEW)
    assert {int(name.split("/")[0]) for name in files(tmp_path / "out")} == drawn


def test_what_is_there_is_kept_and_more_is_added(pack, tmp_path):
    draw_samples(pack, tmp_path / "out", ["0"], per_class=6, words=FEW)
    first = files(tmp_path / "out")
    image_path(tmp_path / "out", 0, 1).unlink()
    marked = image_path(tmp_path / "out", 0, 2)
    marked.write_bytes(b"touched")
    draw_samples(pack, tmp_path / "out", ["0", "2"], per_class=9, words=FEW)
    after = files(tmp_path / "out")
    assert len(after) == 18
    assert after["0000/00002.png"] == b"touched"  # not drawn again, though its block was
    assert {name: after[name] for name in first if name != "0000/00002.png"} == {
        name: data for name, data in first.items() if name != "0000/00002.png"
    }


def test_another_model_or_protocol_is_refused_naming_what_differs(pack, tmp_path):
    draw_samples(pack, tmp_path / "out", ["0"], per_class=1, words=FEW)
    before = files(tmp_path / "out")
    for words, protocol, message in (
        ({"sample": {"steps": 4, "block": 4}, "runtime": {"device": "cpu"}}, None, "differ in protocol.steps;"),
        (FEW, "paper", r"differ in protocol.guidance_scale, protocol.sampler;"),
        ({"sample": {**FEW["sample"], "seed": 4}, "runtime": {"device": "cpu"}}, None, "differ in protocol.seed;"),
    ):
        with pytest.raises(UserError, match=message):
            draw_samples(pack, tmp_path / "out", ["0"], per_class=1, protocol=protocol, words=words)
    model = erase.load_model(pack)
    perturb(model.transformer, seed=9)
    erase.save_model(model, tmp_path / "other")
    with pytest.raises(UserError, match="differ in model;"):
        draw_samples(tmp_path / "other", tmp_path / "out", ["0"], per_class=1, words=FEW)
    assert files(tmp_path / "out") == before
    (tmp_path / "out" / "samples.json").unlink()
    with pytest.raises(UserError, match="holds images of an unknown model"):
        draw_samples(pack, tmp_path / "out", ["0"], per_class=1, words=FEW)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is a file"):
        draw_samples(pack, tmp_path / "file", ["0"], per_class=1, words=FEW)


def test_what_a_killed_process_was_writing_goes_and_nothing_else(pack, tmp_path):
    out = tmp_path / "out"
    draw_samples(pack, out, ["0"], per_class=2, words=FEW)
    gone = [out / ".samples.json.pmzx0e35.json", out / "0000" / ".00000.png.bq7lpkzp.png", out / LOCK]
    stay = [out / ".notes.abcdefgh", out / "0000" / ".mine.png.abcdefgh.png", out / "mine" / ".00000.png.abcdefgh.png"]
    (out / "mine").mkdir()
    for path in (*gone, *stay):
        path.write_text("")
    draw_samples(pack, out, ["0"], per_class=2, words=FEW)
    assert not [path for path in gone if path.exists()]
    assert [path for path in stay if path.exists()] == stay


def test_a_folder_that_another_process_fills_is_left_to_it(pack, tmp_path):
    with held(tmp_path / "out", ""):
        with pytest.raises(UserError, match=r"another process is working in .*out; wait for it, or give another"):
            draw_samples(pack, tmp_path / "out", ["0"], per_class=1, words=FEW)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    draw_samples(pack, tmp_path / "out", ["0"], per_class=1, words=FEW)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000", "samples.json"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("fast", {"sampler": "dpm++", "steps": 25, "guidance_scale": 1.5}),
        ("paper", {"sampler": "ancestral", "steps": 250, "guidance_scale": 1.5}),
        (None, {"sampler": "ddim", "steps": 3, "guidance_scale": 2.0}),
    ],
)
def test_protocols_have_names(pack, tmp_path, monkeypatch, name, wanted):
    monkeypatch.setattr("erase.samples.sample_folder", lambda *_: None)
    about = draw_samples(pack, tmp_path / "out", protocol=name)
    assert wanted.items() <= about["protocol"].items()
    assert about["protocol"]["seed"] == 3
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["protocol"] == about["protocol"]


def test_a_model_without_a_protocol_is_drawn_fast(pack, tmp_path, monkeypatch):
    monkeypatch.setattr("erase.samples.sample_folder", lambda *_: None)
    model = make_model()
    erase.save_model(model, tmp_path / "plain")
    about = draw_samples(tmp_path / "plain", tmp_path / "out")
    assert about["protocol"]["steps"] == 25
    assert about["per_class"] == SampleConfig().per_class


def test_a_run_is_drawn_from_its_erased_model(pack, tmp_path, monkeypatch):
    monkeypatch.setattr("erase.samples.sample_folder", lambda *_: None)
    model = erase.load_model(pack)
    perturb(model.transformer, seed=9)
    erase.save_model(model, tmp_path / "run" / "model")
    about = draw_samples(tmp_path / "run", tmp_path / "out")
    assert about["model"] == model.key() != erase.load_model(pack).key()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"classes": ["7"]}, "class 7 is not in the model"),
        ({"exclude": ["0", "1", "2"]}, "no class is left"),
        ({"protocol": "papre"}, "unknown protocol 'papre'; did you mean 'paper'"),
        ({"words": {"unlearn": {"rounds": 1}}}, "unknown key 'unlearn'"),
        ({"words": {"sample": {"stepps": 1}}}, "unknown key 'sample.stepps'"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"words": {"runtime": {"device": "gpu"}}}, "runtime.device must be"),
    ],
)
def test_wrong_use_makes_nothing(pack, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        draw_samples(pack, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()
