"""``erase convert``: the original layout and diffusers folders, both ways."""

import json
import os
import signal
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image

import erase
from erase import cli
from erase.convert import convert
from erase.errors import UserError
from erase.model import weights_key

from .helpers import make_model, make_vae, same, weights_of

CHECKPOINT = str(Path(__file__).parent / "data" / "dit_tiny_original.pt")


@pytest.fixture
def vae(tmp_path):
    make_vae().save_pretrained(tmp_path / "vae")
    return str(tmp_path / "vae")


def test_there_and_back_every_tensor_is_bit_equal(tmp_path, vae):
    there = convert(CHECKPOINT, str(tmp_path / "folder"), vae, 2)
    assert there["layout"] == "diffusers"
    assert there["time_features"] == "original"
    assert "draws slightly differently" in there["notes"][0]
    assert len(there["notes"]) == 1
    back = convert(str(tmp_path / "folder"), str(tmp_path / "back.pt"))
    assert back["layout"] == "original"
    assert back["notes"] == []
    assert there["weights"] == back["weights"]
    first, second = (torch.load(path, weights_only=True) for path in (CHECKPOINT, tmp_path / "back.pt"))
    assert list(first) == list(second)
    assert same(dict(first), dict(second))
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "back.pt", "vae"}


def test_stock_ditpipeline_opens_the_folder(tmp_path, vae):
    convert(CHECKPOINT, str(tmp_path / "folder"), vae, 2)
    pipe = diffusers.DiTPipeline.from_pretrained(tmp_path / "folder")
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe([3], guidance_scale=1.0, num_inference_steps=2).images
    assert isinstance(image, Image.Image)
    assert "`norm_eps` in `transformer/config.json`" in (tmp_path / "folder" / "README.md").read_text()


def test_without_a_vae_it_says_what_is_missing(tmp_path):
    assert "it holds no VAE" in convert(CHECKPOINT, str(tmp_path / "folder"), num_heads=2)["notes"][1]
    assert not (tmp_path / "folder" / "vae").exists()


def test_a_diffusers_model_is_written_in_the_original_layout_only_on_request(tmp_path):
    model = make_model()
    erase.save_model(model, tmp_path / "native")
    with pytest.raises(UserError, match=r"native is no model of the original code: its time features .*--allow-diff"):
        convert(str(tmp_path / "native"), str(tmp_path / "out.pt"))
    assert not (tmp_path / "out.pt").exists()
    about = convert(str(tmp_path / "native"), str(tmp_path / "out.pt"), allow_difference=True)
    assert about["time_features"] == "diffusers"
    assert "steps of 1/127" in about["notes"][0]
    loaded = erase.load_model(str(tmp_path / "out.pt"), num_heads=2)
    assert same(weights_of(loaded.transformer), weights_of(model.transformer))
    assert weights_key(loaded.transformer) != weights_key(model.transformer)  # the same weights, other numerics


def test_a_pack_stays_a_pack(tmp_path):
    erase.save_model(make_model(classes=(1, 5), pack={"version": 1, "classes": [1, 5]}), tmp_path / "a")
    convert(str(tmp_path / "a"), str(tmp_path / "b"))
    assert erase.load_model(str(tmp_path / "b")).labels == {1: "name 1", 5: "name 5"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path, kind):
    target = tmp_path / "there.pt"
    held = target if kind == "file" else target / "notes.txt"
    held.parent.mkdir(exist_ok=True)
    held.write_text("mine")
    with pytest.raises(UserError, match=r"there\.pt is there already"):
        convert(CHECKPOINT, str(target), num_heads=2)
    assert held.read_text() == "mine"
    with pytest.raises(UserError, match="give a folder, or a file ending"):
        convert(CHECKPOINT, str(tmp_path / "x.safetensors"), num_heads=2)


@pytest.mark.parametrize("target", ["out.pt", "folder"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, target):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    erase.save_model(erase.load_model(CHECKPOINT, num_heads=2), tmp_path / "in")
    monkeypatch.setattr("torch.save", full)
    monkeypatch.setattr("erase.model.write_pipeline", full)
    with pytest.raises(OSError, match="No space"):
        convert(str(tmp_path / "in"), str(tmp_path / "out" / target))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def call(monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGTERM)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["erase", "convert", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)


def test_the_command_prints_a_line_or_json_and_notes_go_to_stderr(call, tmp_path):
    code, out, err = call(CHECKPOINT, tmp_path / "a", "--num-heads", 2, "--json")
    assert (code, err) == (0, "")
    about = json.loads(out)
    assert about["parameters"] == sum(
        value.numel() for name, value in torch.load(CHECKPOINT, weights_only=True).items() if name != "pos_embed"
    )
    code, out, err = call(CHECKPOINT, tmp_path / "b", "--num-heads", 2)
    assert code == 0
    assert (
        out == f"{tmp_path / 'b'}: diffusers layout, {about['parameters']:,} parameters, weights {about['weights']}\n"
    )
    assert [line[:6] for line in err.splitlines()] == ["note: "] * 2


def test_wrong_uses_of_the_command_are_one_line(call, tmp_path):
    for words, said in (
        ((CHECKPOINT, tmp_path / "a"), "model.num_heads=N"),
        ((tmp_path / "none.pt", tmp_path / "a"), "no checkpoint at"),
        (("digits", tmp_path / "a.pt"), "--allow-difference"),
        ((CHECKPOINT,), "DST"),
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == []
