"""What strangers hand in: never run, never believed about its size, and harmless when its names are shown."""

import errno
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from erase.classifier import load_instrument
from erase.data.images import folder, load_images, read_image
from erase.data.listing import image_files
from erase.errors import UserError
from erase.model import Model, load_model, save_model
from erase.original import read_checkpoint
from erase.packs import read_about, read_index, read_results, read_transformer, read_vae
from erase.pictures import find_pictures, read_file
from erase.presets import load_yaml
from erase.published import load_published
from erase.report.card import model_card
from erase.report.grid import Panel, Row, draw_panels
from erase.samples import draw_samples
from erase.targets import has_images, read_adm
from erase.text import brief, csv_cell, markdown, plain
from erase.untrusted import ASPECT, PIXELS, open_regular, read_pickled, read_regular
from erase.yamls import parse_yaml

from .bad_input import npy, png, saved, zipped
from .fuzzing import make_world
from .helpers import make_transformer, make_vae

QUICK = {"sample": {"steps": 1}, "runtime": {"device": "cpu"}}


class Payload:
    """Unpickled, it makes the file ``path``."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("trust") / "world")


@pytest.fixture
def ran(tmp_path):
    """A file that only an unpickled payload makes; the plain unpickler does make it."""
    path = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(path))).close()
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


@pytest.mark.parametrize("form", ["pickle", "archive", "legacy", "beside tensors"])
def test_a_pickle_bomb_in_a_checkpoint_does_not_run(tmp_path, ran, form):
    path, bomb = tmp_path / "x.pt", Payload(ran)
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        value = {"model": {"x_embedder.proj.weight": torch.zeros(1)}, "opt": bomb} if form[0] == "b" else bomb
        torch.save(value, path, _use_new_zipfile_serialization=form != "legacy")
    for read in (read_checkpoint, read_pickled, lambda p: load_published("resnet34", str(p))):
        with pytest.raises(UserError, match=r"would run its code|cannot read") as raised:
            read(path)
        assert "\n" not in str(raised.value)


def test_a_pickle_bomb_as_a_network_s_bin_does_not_run(tmp_path, ran, world):
    pack = tmp_path / "pack"
    shutil.copytree(world / "pack", pack)
    (pack / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"a": Payload(ran)}, pack / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="would run its code"):
        load_model(str(pack))


def test_a_pickle_bomb_in_an_npz_does_not_run(tmp_path, ran):
    trap = np.array([Payload(ran)], dtype=object)
    np.savez(tmp_path / "images.npz", trap)
    np.savez(tmp_path / "adm.npz", mu=trap, sigma=trap)
    with pytest.raises(UserError, match="Python objects"):
        find_pictures(tmp_path / "images.npz")
    with pytest.raises(UserError, match="Python objects"):
        read_adm(tmp_path / "adm.npz", None)


def test_code_beside_a_model_is_not_imported(tmp_path, world):
    shutil.copytree(world / "pack", tmp_path / "pack")
    (tmp_path / "pack" / "evil.py").write_text("raise SystemExit('it ran')")
    path = tmp_path / "pack" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformer": ["evil", "Evil"]}))
    with pytest.raises(UserError, match=r"names \['evil', 'Evil'\]; only diffusers' own"):
        load_model(str(tmp_path / "pack"))


def test_archives_that_promise_more_than_they_hold_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(zipped({"a/data.pkl": b"x", "a/data/0": b"\0" * 10**6}, zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="compressed archive"):
        read_pickled(path)
    path.write_bytes(saved({"a": torch.zeros(1).expand(10**6, 10**6)}))
    with pytest.raises(UserError, match="larger than the file"):
        read_pickled(path)
    tensors = {"a": torch.arange(6.0), "b": {"c": [torch.ones(3)]}}
    path.write_bytes(saved(tensors))
    assert torch.equal(read_pickled(path)["b"]["c"][0], torch.ones(3))  # and the honest one is read


def test_an_npz_is_measured_before_it_is_read(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(zipped({"arr_0.npy": npy(shape=(10**6, 10**6, 10**6, 3))}))
    with pytest.raises(UserError, match="its header promises"):
        find_pictures(path)
    path.write_bytes(zipped({"mu.npy": npy(shape=(2**50,), descr="<f8"), "sigma.npy": npy(np.eye(2))}))
    assert not has_images(path)
    with pytest.raises(UserError, match="its header promises"):
        read_adm(path, None)
    zeros = np.zeros((3, 4, 4, 3), np.uint8)
    path.write_bytes(zipped({"arr_0.npy": npy(zeros)}, zipfile.ZIP_DEFLATED))
    assert len(find_pictures(path)[0]) == 3


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("read", [read_image, read_file])
@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (50_000, 50_000), (ASPECT * 40 + 41, 40), (PIXELS + 1, 1)])
def test_gigantic_images_are_refused_by_their_header(tmp_path, read, size):
    path = tmp_path / "x.png"
    path.write_bytes(png(*size))
    with pytest.raises(UserError, match=r"cannot read the image .*x\.png"):
        read(path, 16)


def test_an_image_is_only_what_its_kind_says(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")  # PIL would start Ghostscript
    for read in (read_image, read_file):
        with pytest.raises(UserError, match="it is no PNG, JPEG"):
            read(path)
    Image.new("RGB", (5, 4), (9, 8, 7)).save(path, "BMP")
    assert read_image(path).shape == (3, 4, 5)


def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UserError, match="is no regular file"):
            open_regular(tmp_path / name)
        with pytest.raises(UserError, match="is no regular file"):
            read_regular(tmp_path / name, 100)
        with pytest.raises(UserError, match="is no regular file"):
            read_image(tmp_path / name)
    with pytest.raises((UserError, OSError)):
        open_regular(tmp_path)


def test_a_file_is_read_whole_also_piece_by_piece_and_not_above_the_limit(tmp_path, monkeypatch):
    path, content, real = tmp_path / "file", bytes(range(250)), os.read
    path.write_bytes(content)
    assert read_regular(path, 250) == content
    assert read_regular(path, 249) is None
    monkeypatch.setattr(os, "read", lambda handle, size: real(handle, min(size, 99)))  # as some file systems do
    assert read_regular(path, 250) == content


def test_links_that_loop_are_refused(tmp_path):
    (tmp_path / "0").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "0" / "a.png")
    (tmp_path / "0" / "up").symlink_to("..")
    with pytest.raises(UserError, match="a link to a folder that is listed anyway, or that it lies in"):
        find_pictures(tmp_path)
    with pytest.raises(UserError, match="a link to a folder that is listed anyway, or that it lies in"):
        load_images(str(tmp_path), 4)


@pytest.mark.parametrize(
    "links", [{"0/again": "0/in"}, {"0/peer": "1", "1/peer": "0"}, {"0/x": "far", "far/y": "near", "near/z": "far"}]
)
def test_links_to_what_is_listed_anyway_are_refused(tmp_path, links):
    for name in ("0/in", "1", "far", "near"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    for name, target in links.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="is a link to a folder that is listed anyway"):
        image_files(tmp_path / "0")


def test_links_to_folders_elsewhere_are_followed_by_data_and_by_scores(tmp_path):
    for name in ("root/0/a.png", "root/1/b.png", "elsewhere/c.png", "elsewhere/deep/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "root" / "0" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "2").symlink_to(tmp_path / "elsewhere")
    wanted = ["0/a.png", "0/more/c.png", "0/more/deep/d.png", "1/b.png", "2/c.png", "2/deep/d.png"]
    found = load_images(str(tmp_path / "root"), 4)
    assert [str(path.relative_to(tmp_path / "root")) for path in found.files] == wanted
    assert found.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert [str(path) for path in found.files] == list(find_pictures(tmp_path / "root")[0].files)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "0" / "in").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "0" / "a.png")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("in"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for read in (lambda: load_images(str(tmp_path), 4), lambda: find_pictures(tmp_path)):
        with pytest.raises(UserError, match=r"cannot list the folder .*in: Permission denied"):
            read()


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "expands to more than"),
        ("[" * 3000, "nested too deeply"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a {b: *a}", "holds itself"),
        ("x: {a: 1, a: 2}", "the key 'a' is there twice"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("seed: 2020-13-45", "month must be in"),
        ("? {a: 1}\n: 2", "unhashable"),
        ("seed: " + "9" * 5000, "limit"),
    ],
)
def test_yaml_that_would_explode_is_refused(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match="is not valid YAML") as raised:
        load_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(raised.value)


def test_yaml_keeps_its_anchors():
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}
    assert parse_yaml("") is None


def test_a_config_may_not_ask_for_more_memory_than_its_weights_take(tmp_path, world):
    for name, read, key, value, said in (
        ("transformer", read_transformer, "num_layers", 500, "asks for"),
        ("transformer", read_transformer, "num_layers", -1, "from 1 to 512, not -1"),
        ("transformer", read_transformer, "num_layers", 10**30, "from 1 to 512"),
        ("transformer", read_transformer, "sample_size", 4095, "cut into patches"),
        ("transformer", read_transformer, "quantization_config", {"quant_method": "x"}, "not supported"),
        ("vae", read_vae, "block_out_channels", [8192, 8192], "asks for"),
        ("vae", read_vae, "block_out_channels", [], "1 to 8 sizes"),
        ("vae", read_vae, "scaling_factor", float("nan"), "number above 0"),
        ("classifier", load_instrument, "settings", {"classes": 3, "width": 4096, "features": 8}, "asks for"),
    ):
        at = tmp_path / "copy" / name
        shutil.rmtree(at, ignore_errors=True)
        shutil.copytree(world / "pack" / name, at)
        read(at)
        content = json.loads((at / "config.json").read_text())
        (at / "config.json").write_text(json.dumps(content | {key: value}))
        with pytest.raises(UserError, match=said):
            read(at)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": [0, 0]}, "different class ids"),
        ({"classes": "012"}, "classes must be a list"),
        ({"classes": [True]}, "different class ids"),
        ({"family": "../../x"}, "family must be a name"),
        ({"data": {"source": 3}}, r"data\.source"),
        ({"protocol": []}, "protocol must be a dict"),
        ({"forgotten": [3]}, "must list mappings"),
    ],
)
def test_a_pack_s_metadata_must_have_its_types(tmp_path, change, said):
    (tmp_path / "erase.json").write_text(json.dumps({"classes": [0, 1]} | change))
    with pytest.raises(UserError, match=said):
        read_about(tmp_path)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[2J", "\u202eabc", "x" * 501, 3, None, ["a"]])
def test_class_names_are_printable(tmp_path, name):
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": {"0": name}}))
    with pytest.raises(UserError, match="id2label names class 0") as raised:
        read_index(tmp_path)
    assert str(raised.value).isprintable()


def test_results_of_a_stranger_s_run_are_checked(tmp_path):
    for content in ({}, {"forget": 3}, {"forget": [{"index": -1}]}, {"forget": [{"index": "../x"}]}, {"forget": [3]}):
        (tmp_path / "results.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="does not hold what it should"):
            read_results(tmp_path)


def test_a_data_folder_with_a_forged_name_is_refused(tmp_path):
    (tmp_path / "a\nerase: all is well").mkdir()
    with pytest.raises(UserError, match="rename it") as raised:
        folder(tmp_path, 16)
    assert len(plain(raised.value).splitlines()) == 1


def test_text_from_outside_is_harmless():
    assert plain("a\x1b[31mb\nc\u202e\ud800é🦊") == "a\\x1b[31mb\\nc\\u202e\\ud800é🦊"
    assert markdown("[x](http://y) | <b> `c`\n---") == r"\[x\](http://y) \| \<b\> \`c\`\\n---"
    assert [csv_cell(value) for value in ("=1+1", "@a", "+1", "-1", "a=1", -1, 0.5, None)] == [
        "'=1+1", "'@a", "'+1", "'-1", "a=1", -1, 0.5, None,
    ]  # fmt: skip
    loop = []
    loop.append(loop)
    assert len(brief("x" * 10**6)) < 100
    assert len(brief([[[[[["a"] * 100] * 100] * 100] * 100] * 100])) < 600
    assert brief(10**5000).startswith("a value of type int") or len(brief(10**5000)) < 200
    assert brief(loop)


def test_a_model_card_cannot_be_forged_by_a_name():
    side = {"fa": 0.0, "ra": 1.0, "fid": 2.0}
    results = {
        "forget": [{"index": 1, "name": "x\n---\nlicense: mit\n<script>"}], "method": "ga", "optimizer": "dual",
        "seed": 0, "config_hash": "0", "versions": {"erase": "0"}, "models": {"original": side, "erased": side},
        "protocol": {"samples": {"forget": 1, "retain_total": 1}, "guidance_scale": 1, "sampler": "x", "steps": 1},
    }  # fmt: skip
    text = model_card(results, "w", "o", before=[{"name": "\n---\n", "index": "[a](b)"}])
    assert text.splitlines().count("---") == 2
    assert "\\<script\\>" in text
    assert "\\[a\\](b)" in text


def test_a_grid_of_odd_names_is_drawn(tmp_path):
    rows = [Row("a\nb\x1b", True), Row("x" * 10_000)]
    draw_panels(rows, [Panel("p\nq", [[], []])], tmp_path / "x.png", "title\n" * 50)
    with Image.open(tmp_path / "x.png") as page:
        assert max(page.size) < 2000


def test_images_of_a_class_lie_inside_whatever_it_is_called(tmp_path):
    names = {0: "../../x", 1: "CON", 2: "a/b"}
    save_model(Model(make_transformer(12), make_vae(), names), tmp_path / "pack")
    out = tmp_path / "deep" / "out"
    about = draw_samples(tmp_path / "pack", out, classes=["../../x", "CON", "a/b"], per_class=2, words=QUICK)
    assert about["classes"] == [0, 1, 2]
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert found == [f"{label:04d}/{number:05d}.png" for label in range(3) for number in range(2)]
    assert {path.name for path in tmp_path.iterdir()} == {"pack", "deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
