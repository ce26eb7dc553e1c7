"""Frechet distances of many folders: conventions, streaming, caching, and what is refused."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import erase
from erase.classifier import save_instrument
from erase.errors import UserError
from erase.extractors import INCEPTION, find_extractor
from erase.fidelity import fid, fid_table
from erase.metrics.fid import distance, statistics
from erase.pictures import find_pictures, read_file
from erase.reference import reference_of, write_reference
from erase.rows import read_rows
from erase.targets import Target, save_target

from .helpers import make_images, make_model, write_image
from .test_classifier import make_instrument

SIDE = 16


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack with a random classifier, 6 features wide."""
    root = tmp_path_factory.mktemp("pack")
    save_instrument(make_instrument(), root / "classifier", {})
    return str(root)


def pixels(n, seed=0, low=0, high=256):
    """Colour images whose channels differ, so that their order matters: uint8, n x H x W x 3."""
    draws = np.random.default_rng(seed).integers(low, high, size=(n, SIDE, SIDE, 3))
    return (draws * [1.0, 0.6, 0.2]).astype(np.uint8)


def folder(root, images, nested=False):
    for i, image in enumerate(images):
        write_image(root / (f"{i % 3:04d}" if nested else "") / f"{i:05d}.png", image)
    return root


def features(images):
    return make_instrument().read([torch.from_numpy(images).permute(0, 3, 1, 2)]).features


def wanted(first, second):
    return distance(statistics(features(first)), statistics(features(second)))


@pytest.fixture
def real(tmp_path):
    return folder(tmp_path / "real", pixels(40, seed=1))


def test_the_distance_is_that_of_features_taken_all_at_once(tmp_path, pack, real):
    first = folder(tmp_path / "a", pixels(30), nested=True)
    second = folder(tmp_path / "b", pixels(25, seed=2, high=128))
    rows = fid([first, second], real, pack)
    assert [row["n"] for row in rows] == [30, 25]
    assert rows[0]["fid"] == pytest.approx(wanted(pixels(30), pixels(40, seed=1)), rel=1e-4)
    assert rows[1]["fid"] == pytest.approx(wanted(pixels(25, seed=2, high=128), pixels(40, seed=1)), rel=1e-4)
    assert rows[0]["fid"] != pytest.approx(rows[1]["fid"], rel=0.1)
    assert rows[0]["frechet_inception_distance"] == rows[0]["fid"]
    assert [row["reference_count"] for row in rows] == [40, 40]


def test_an_archive_is_the_same_images(tmp_path, pack, real):
    images = pixels(30)
    np.savez(tmp_path / "stored.npz", images)
    np.savez_compressed(tmp_path / "packed.npz", images)
    folder(tmp_path / "files", images)
    rows = fid([tmp_path / name for name in ("stored.npz", "packed.npz", "files")], real, pack, batch=7)
    assert rows[0]["fid"] == pytest.approx(rows[2]["fid"], rel=1e-9)
    assert rows[1]["fid"] == pytest.approx(rows[2]["fid"], rel=1e-9)


@pytest.mark.parametrize("batch", [1, 7, 30, 500])
def test_the_batch_size_does_not_matter(tmp_path, pack, real, batch):
    first = folder(tmp_path / "a", pixels(30))
    value = fid(first, real, pack, batch=batch)[0]["fid"]
    assert value == pytest.approx(fid(first, real, pack, batch=64)[0]["fid"], rel=1e-5)


def test_one_call_gives_what_a_call_for_each_gives(tmp_path, pack, real):
    folders = [folder(tmp_path / str(seed), pixels(20 + seed, seed)) for seed in range(4)]
    together = [row["fid"] for row in fid(folders, real, pack, batch=8)]
    assert together == [fid(one, real, pack, batch=8)[0]["fid"] for one in folders]


def test_channels_in_the_wrong_order_give_another_distance(tmp_path, pack, real):
    """The known fault: images read as BGR."""
    first = folder(tmp_path / "a", pixels(30))
    value = fid(first, real, pack)[0]["fid"]
    swapped = wanted(pixels(30)[..., ::-1].copy(), pixels(40, seed=1))
    assert value == pytest.approx(wanted(pixels(30), pixels(40, seed=1)), rel=1e-4)
    assert abs(value - swapped) > 0.1 * value


def test_pixels_are_taken_as_they_lie(tmp_path, pack, real):
    """The known faults: each image stretched to its full contrast, or values of -1 to 1 cast to whole numbers."""
    dull = pixels(30, low=76, high=154)
    value = fid(folder(tmp_path / "a", dull), real, pack)[0]["fid"]
    assert value == pytest.approx(wanted(dull, pixels(40, seed=1)), rel=1e-4)
    lows, highs = dull.min((1, 2, 3), keepdims=True), dull.max((1, 2, 3), keepdims=True)
    stretched = ((dull - lows) / (highs - lows) * 255).round().astype(np.uint8)
    cast = (dull / 127.5 - 1).astype(np.int64).astype(np.uint8)
    for wrong in (stretched, cast):
        assert abs(value - wanted(wrong, pixels(40, seed=1))) > 0.1 * value


def test_numbers_that_are_no_pixels_are_refused(tmp_path, pack, real):
    for name, values in (
        ("float", pixels(4) / 255.0),
        ("chw", pixels(4).transpose(0, 3, 1, 2)),
        ("flat", pixels(4)[0]),
    ):
        np.savez(tmp_path / f"{name}.npz", values)
        with pytest.raises(UserError, match=r"uint8 images n x H x W x 3, RGB, 0 to 255, are needed"):
            fid(tmp_path / f"{name}.npz", real, pack)
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(np.full((SIDE, SIDE), 40_000, dtype=np.uint16)).save(deep / "0.png")
    write_image(deep / "1.png", pixels(1)[0])
    with pytest.raises(UserError, match=r"0\.png holds I;16 pixels; 8 bits"):
        fid(deep, real, pack)


def test_nothing_is_unpickled(tmp_path, pack, real):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "images.npz", trap)
    np.savez(tmp_path / "adm.npz", mu=trap, sigma=trap)
    with pytest.raises(UserError, match="Python objects"):
        fid(tmp_path / "images.npz", real, pack)
    with pytest.raises(UserError, match=r"cannot read .*adm\.npz"):
        fid(real, tmp_path / "adm.npz", pack)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_other_image_modes_become_rgb_as_pil_makes_them(tmp_path, mode):
    name = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.fromarray(pixels(1)[0]).convert(mode).save(name)
    with Image.open(name) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(read_file(name).permute(1, 2, 0).numpy(), expected)


def test_plain_png_decodes_as_pil_does(tmp_path):
    images = pixels(5, seed=3)
    for i, image in enumerate(images):
        write_image(tmp_path / f"{i}.png", image)
        assert np.array_equal(read_file(tmp_path / f"{i}.png").permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize("keep", [20, 45, 60, 200])
def test_a_damaged_image_is_named(tmp_path, pack, real, keep):
    first = folder(tmp_path / "a", pixels(12))
    damaged = first / "00007.png"
    damaged.write_bytes(damaged.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cannot read the image .*00007\.png"):
        fid(first, real, pack)


def test_images_of_different_sizes_need_a_size(tmp_path, pack, real):
    first = folder(tmp_path / "a", pixels(67))
    for number in ("00003", "00066"):  # in the first batch, and alone in the second
        path = first / f"{number}.png"
        kept = path.read_bytes()
        Image.open(path).resize((24, 20)).save(path)
        with pytest.raises(UserError, match=rf"{number}\.png is 24 x 20 pixels and others are 16 x 16; --size N"):
            fid(first, real, pack, batch=66)
        row = fid(first, real, pack, size=12)[0]
        assert row["preprocessing"] == "rgb uint8, ADM centre crop to 12"
        path.write_bytes(kept)
    assert "16 x 16" not in str(fid(first, real, pack)[0]["notes"])
    small = tmp_path / "small"
    for i in range(4):
        write_image(small / f"{i}.png", pixels(1, i)[0][:12, :12])
    assert "images of 12 x 12 pixels against a reference of 16 x 16" in fid(small, real, pack)[0]["notes"][1]


@pytest.mark.parametrize("n", [1, 2])
def test_two_images_have_a_distance_and_one_has_none(tmp_path, pack, real, n):
    first = folder(tmp_path / "a", pixels(n))
    if n == 1:
        with pytest.raises(UserError, match="at least 2 images, not 1"):
            fid([real, first], real, pack)
        with pytest.raises(UserError, match="at least 2 images, not 1"):
            fid(real, first, pack)
    else:
        row = fid(first, real, pack)[0]
        assert row["fid"] == pytest.approx(wanted(pixels(2), pixels(40, seed=1)), rel=1e-3)
        assert row["notes"] == ["2 images for 6 features: biased upwards; compare at equal n, from 30"]
        assert fid(real, real, pack)[0]["notes"] == []


def test_a_changed_pixel_is_another_reference(tmp_path, pack, real, monkeypatch):
    first = folder(tmp_path / "a", pixels(30))
    before = fid(first, real, pack)[0]
    image = pixels(40, seed=1)[11]
    image[3, 4, 1] ^= 1
    write_image(real / "00011.png", image)
    after = fid(first, real, pack)[0]
    assert after["reference_key"] != before["reference_key"]
    assert after["key"] != before["key"]
    changed = pixels(40, seed=1)
    changed[11] = image
    assert after["fid"] == pytest.approx(wanted(pixels(30), changed), rel=1e-4)
    assert fid(first, real, pack, size=12)[0]["reference_key"] != after["reference_key"]

    def refuse(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("erase.targets.shared_moments", refuse)
    assert fid(first, real, pack)[0]["fid"] == after["fid"]  # kept
    other = tmp_path / "other"
    save_instrument(make_instrument(seed=1), other / "classifier", {})
    with pytest.raises(AssertionError, match="read again"):
        fid(first, real, str(other))


def test_finished_folders_are_skipped_and_changed_ones_are_not(tmp_path, pack, real, monkeypatch):
    folders = [folder(tmp_path / str(seed), pixels(20, seed)) for seed in range(3)]
    output = tmp_path / "out" / "fid.jsonl"
    whole = fid(folders, real, pack)
    first = fid(folders[:2], real, pack, output=output)
    output.write_text(output.read_text() + '{"name": "torn')
    seen = []
    original = erase.pictures.Pictures.read
    monkeypatch.setattr(erase.pictures.Pictures, "read", lambda self, *a: seen.append(self.name) or original(self, *a))
    rows = fid(folders, real, pack, output=output)
    assert set(seen) == {str(folders[2])}
    assert rows[:2] == first
    assert [row["fid"] for row in rows] == [row["fid"] for row in whole]
    write_image(folders[0] / "00000.png", pixels(1, seed=9)[0])
    seen.clear()
    again = fid(folders, real, pack, output=output)
    assert set(seen) == {str(folders[0])}
    assert again[0]["fid"] != rows[0]["fid"]
    lines = output.read_text().splitlines()
    assert len(lines) == 4
    assert read_rows(output).keys() == {row["key"] for row in [*rows, *again]}


def test_a_copy_is_not_computed_again_and_keeps_its_own_name(tmp_path, pack, real, monkeypatch):
    first = folder(tmp_path / "a", pixels(20))
    output = tmp_path / "fid.jsonl"
    row = fid(first, real, pack, output=output)[0]
    shutil.copytree(first, tmp_path / "b")
    monkeypatch.setattr("erase.fidelity.moments", lambda sets, *_: iter(sets))
    assert fid(tmp_path / "b", real, pack, output=output) == [{**row, "name": str(tmp_path / "b")}]


def test_scoring_leaves_torch_s_global_settings_alone(tmp_path, pack, real):
    def settings():
        return torch.backends.cudnn.allow_tf32, torch.is_grad_enabled(), torch.get_num_threads(), torch.initial_seed()

    before, drawn = settings(), torch.random.get_rng_state()
    fid(folder(tmp_path / "a", pixels(200)), real, pack, batch=3)
    assert settings() == before
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_the_current_folder_and_relative_names_can_be_scored(tmp_path, pack, real, monkeypatch):
    first = folder(tmp_path / "a", pixels(12), nested=True)
    whole = fid(first, real, pack)[0]
    monkeypatch.chdir(first)
    here = fid(".", "../real", pack)[0]
    assert (here["fid"], here["images_key"]) == (whole["fid"], whole["images_key"])


@pytest.mark.parametrize("text", ["precious\nwords\n", "precious", '{"name": 3}\n', "[1]\n", "3\n"])
def test_rows_of_something_else_are_not_written_to(tmp_path, pack, real, text):
    output = tmp_path / "thesis.txt"
    output.write_text(text)
    with pytest.raises(UserError, match="line 1, is no row of erase fid"):
        fid(real, real, pack, output=output)
    assert output.read_text() == text


def test_saved_statistics_stand_for_their_images(tmp_path, pack, real):
    first = folder(tmp_path / "a", pixels(30))
    kept = tmp_path / "real.safetensors"
    row = fid(first, real, pack, save_reference=kept)[0]
    again = fid(first, kept, pack)[0]
    assert again["fid"] == row["fid"]
    assert (again["reference_count"], again["key"]) == (40, row["key"])
    other = tmp_path / "other"
    save_instrument(make_instrument(seed=1), other / "classifier", {})
    with pytest.raises(UserError, match="was made with extractor 'Classifier-"):
        fid(first, kept, str(other))
    with pytest.raises(UserError, match="was made with preprocessing 'rgb uint8', not"):
        fid(first, kept, pack, size=12)
    with pytest.raises(UserError, match="is no statistics file"):
        fid(first, f"{pack}/classifier/model.safetensors", pack)
    with pytest.raises(UserError, match="needs images"):
        save_target(Target("adm", "k", {}, None, None), kept, find_extractor(pack), None)


def test_adm_statistics_are_of_inception_features(tmp_path, pack, real, monkeypatch):
    first = folder(tmp_path / "a", pixels(30))
    mu, sigma = np.ones(6, dtype=np.float32), 2 * np.eye(6)
    np.savez(tmp_path / "adm.npz", arr_0=pixels(3), mu=mu, sigma=sigma)
    with pytest.raises(UserError, match="statistics of Inception features, which say nothing about Classifier"):
        fid(first, tmp_path / "adm.npz", pack)
    monkeypatch.setattr("erase.targets.INCEPTION", "Classifier-" + find_extractor(pack).key[:8])
    row = fid(first, tmp_path / "adm.npz", pack)[0]
    expected = distance(statistics(features(pixels(30))), {"mu": mu, "sigma": sigma})
    assert row["fid"] == pytest.approx(expected, rel=1e-4)
    assert row["reference_count"] is None
    np.savez(tmp_path / "wide.npz", mu=np.ones(7), sigma=np.eye(7))
    with pytest.raises(UserError, match="has 7 features and the extractor gives 6"):
        fid(first, tmp_path / "wide.npz", pack)


def test_a_flat_number_folder_and_hidden_files(tmp_path):
    first = folder(tmp_path / "a", pixels(6), nested=True)
    (first / "0001" / ".00001.png.half").write_bytes(b"")
    write_image(first / "0001" / ".hidden.png", pixels(1)[0])
    found = find_pictures(first)[0]
    assert len(found) == 6
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_missing_inception_weights_are_one_line_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as told:
        fid(tmp_path, tmp_path)
    line = str(told.value)
    assert "fetch https://github.com/toshas/torch-fidelity/releases/" in line
    assert "weights-inception-2015-12-05-6726825d.pth and put it at " + str(tmp_path) in line
    assert "\n" not in line


def test_what_is_not_there_is_said_before_the_extractor_is_looked_for(tmp_path, real, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # without weights
    with pytest.raises(UserError, match=r"^no images at .*absent"):
        fid([real, tmp_path / "absent"], real)
    with pytest.raises(UserError, match=r"^no images at .*absent; a reference is"):
        fid(real, tmp_path / "absent")


def test_inception_takes_weights_from_a_file_and_never_unpickles(tmp_path, monkeypatch):
    from erase.extractors import load_inception

    random = load_inception(None, torch.device("cpu"))
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match="holds no Inception weights"):
        find_extractor(INCEPTION, str(tmp_path / "wrong.pth"))
    with pytest.raises(UserError, match="no Inception weights at"):
        find_extractor(INCEPTION, str(tmp_path / "absent.pth"))

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    torch.save({"x": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="holds no Inception weights"):
        find_extractor(INCEPTION, str(tmp_path / "trap.pth"))
    images = torch.from_numpy(pixels(2)).permute(0, 3, 1, 2)
    found = random(images)
    assert found.features.shape == (2, 2048)
    assert found.logits.shape == (2, 1008)
    network = random.forward.__closure__
    state = next(cell.cell_contents for cell in network).state_dict()
    torch.save(state, tmp_path / "right.pth")
    loaded = find_extractor(INCEPTION, str(tmp_path / "right.pth"))
    assert torch.equal(loaded(images).features, found.features)


def test_an_extractor_of_one_s_own_is_found_by_name(tmp_path, real):
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    class Means(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("means",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "means"

        def forward(self, images):
            return (images.float().mean((2, 3)),)

    if "means" not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor("means", Means)
    first = folder(tmp_path / "a", pixels(30))
    row = fid(first, real, "means")[0]
    sides = [statistics(pixels(*which).mean((1, 2)).astype(np.float32)) for which in ((30, 0), (40, 1))]
    assert row["fid"] == pytest.approx(distance(*sides), rel=1e-4)
    assert row["layer"] == "means"
    with pytest.raises(UserError, match="loads its weights by unpickling"):
        fid(first, real, "vgg16")
    with pytest.raises(UserError, match="no extractor 'digist'; did you mean 'digits'"):
        fid(first, real, "digist")
    with pytest.raises(UserError, match="--weights belongs to inception"):
        fid(first, real, "means", weights="x.pth")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no images at"),
        (lambda p: p.mkdir(), "no images under"),
        (lambda p: p.write_text("x"), "no images at"),
    ],
)
def test_a_source_without_images_is_refused(tmp_path, pack, real, make, message):
    make(tmp_path / "a")
    with pytest.raises(UserError, match=message):
        fid(tmp_path / "a", real, pack)
    with pytest.raises(UserError, match=message):
        fid(real, tmp_path / "a", pack)


def test_an_archive_that_is_none_is_refused(tmp_path, pack, real):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot read"):
        fid(tmp_path / "a.npz", real, pack)
    np.savez(tmp_path / "b.npz", other=pixels(3))
    with pytest.raises(UserError, match=r"holds no arr_0; it has other\.npy"):
        fid(tmp_path / "b.npz", real, pack)
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as zipped:
        zipped.writestr("arr_0.npy", io.BytesIO(b"\x93NUMPY\x01\x00").getvalue())
    with pytest.raises(UserError, match="cannot read"):
        fid(tmp_path / "c.npz", real, pack)


@pytest.fixture
def run(tmp_path):
    """A finished run of three classes that forgot class 1, over data of its own."""
    root = tmp_path / "run"
    data = tmp_path / "data"
    erase.save_model(make_model(), root / "model")
    save_instrument(make_instrument(), root / "model" / "classifier", {})
    images = make_images(36, seed=3).arrays.permute(0, 2, 3, 1).numpy()
    for i, image in enumerate(images):
        write_image(data / f"name {i % 3}" / f"{i}.png", image)
    for side, seed in (("original", 5), ("erased", 6)):
        for i, image in enumerate(pixels(30, seed)):
            write_image(root / "samples" / side / f"{i % 3:04d}" / f"{i // 3:05d}.png", image)
    (root / "config.yaml").write_text(json.dumps({"data": {"source": str(data)}, "forget": ["1"]}))
    (root / "results.json").write_text(json.dumps({"forget": [{"index": 1, "name": "name 1"}]}))
    return root


def test_of_a_run_the_retained_classes_are_compared_to_the_same_classes(run, tmp_path, real):
    rows = fid(run, tmp_path / "data", str(run))
    keep = np.arange(30) % 3 != 1
    truth = make_images(36, seed=3).arrays.permute(0, 2, 3, 1).numpy()[np.arange(36) % 3 != 1]
    assert [row["name"] for row in rows] == [f"{run} (original)", f"{run} (erased)"]
    assert [(row["n"], row["reference_count"]) for row in rows] == [(20, 24), (20, 24)]
    for row, seed in zip(rows, (5, 6), strict=True):
        assert row["fid"] == pytest.approx(wanted(pixels(30, seed)[keep], truth), rel=1e-4)
        assert abs(row["fid"] - wanted(pixels(30, seed), truth)) > 1e-3 * row["fid"]
    assert not any("reference of all" in note for note in rows[0]["notes"])
    whole = fid(run, real, str(run))[0]
    assert whole["reference_count"] == 40
    assert "the retained classes against a reference of all" in whole["notes"][-1]


def test_a_pack_s_own_statistics_are_a_reference_by_class(run, tmp_path, real, pack):
    truth = make_images(36, seed=3).arrays.permute(0, 2, 3, 1).numpy()
    labels = np.arange(36) % 3
    model = run / "model"
    write_reference(reference_of(features(truth), labels), model)
    rows = fid([run, real], model, str(run))
    assert [row["reference_count"] for row in rows] == [24, 24, 36]
    images = fid(run, tmp_path / "data", str(run))
    assert rows[0]["fid"] == pytest.approx(images[0]["fid"], rel=1e-4)
    assert rows[2]["fid"] == pytest.approx(wanted(pixels(40, seed=1), truth), rel=1e-4)
    assert fid(real, model / "reference.safetensors", str(run))[0]["fid"] == rows[2]["fid"]
    other = tmp_path / "other"
    save_instrument(make_instrument(seed=1), other / "classifier", {})
    with pytest.raises(UserError, match="statistics of its own classifier's features"):
        fid(real, model, str(other))
    with pytest.raises(UserError, match="uncropped"):
        fid(real, model, str(run), size=12)


def test_the_distance_is_torch_fidelity_s_on_the_same_folders(tmp_path, pack, real):
    import torch_fidelity

    from erase.classifier import load_instrument
    from erase.metrics.extractor import register

    first = folder(tmp_path / "a", pixels(30))
    theirs = torch_fidelity.calculate_metrics(
        input1=str(first), input2=str(real), feature_extractor=register(load_instrument(Path(pack) / "classifier")),
        fid=True, cuda=False, verbose=False, save_cpu_ram=True, cache=False,
    )  # fmt: skip
    assert fid(first, real, pack)[0]["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


def test_runs_that_cannot_be_scored_say_why(run, pack, real):
    with pytest.raises(UserError, match="is a run; give real images"):
        fid(real, run, pack)
    (run / "samples").rename(run / "gone")
    with pytest.raises(UserError, match="keeps no samples; erase sample"):
        fid(run, real, pack)
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        fid(run, real, pack)


def test_the_table_has_a_line_a_folder_and_the_notes(tmp_path, pack, real):
    rows = fid([folder(tmp_path / "a", pixels(3)), real], real, pack)
    text = fid_table(rows)
    assert f"{rows[0]['fid']:.4g}" in text
    assert "reference" in text
    assert "(40 images)" in text
    assert f"note: {tmp_path}/a: 3 images for 6 features" in text
