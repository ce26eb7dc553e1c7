"""``erase score``: what it computes, from what, and that it computes it once."""

import json

import numpy as np
import pytest
import torch

import erase
from erase.classifier import save_instrument
from erase.errors import UserError
from erase.evaluation import METRICS, score
from erase.fidelity import fid
from erase.metrics.fid import distance, statistics
from erase.metrics.kid import kid
from erase.pictures import Pictures
from erase.report.scores import score_table
from erase.scoring import read_folder, score_reading

from .helpers import make_images, make_model, write_image
from .test_classifier import make_instrument
from .test_fidelity import pixels

CLASSES = (0, 1, 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run of three classes that forgot class 1."""
    home = tmp_path_factory.mktemp("score")
    root = home / "run"
    erase.save_model(make_model(), root / "model")
    save_instrument(make_instrument(classes=CLASSES), root / "model" / "classifier", {})
    for i, image in enumerate(make_images(36, seed=3).arrays.permute(0, 2, 3, 1).numpy()):
        write_image(home / "data" / f"name {i % 3}" / f"{i}.png", image)
    for side, seed in (("original", 5), ("erased", 6)):
        for i, image in enumerate(pixels(30, seed)):
            write_image(root / "samples" / side / f"{i % 3:04d}" / f"{i // 3:05d}.png", image)
    (root / "config.yaml").write_text(json.dumps({"data": {"source": str(home / "data")}}))
    (root / "results.json").write_text(json.dumps({"forget": [{"index": 1, "name": "name 1"}]}))
    return root


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))


def test_a_run_s_scores_are_those_of_its_results(source):
    instrument = make_instrument(classes=CLASSES)
    real = make_images(36, seed=3).arrays
    retained = torch.stack([image for i, image in enumerate(real) if i % 3 != 1])
    reference = statistics(instrument.read([retained]).features)
    rows = score(source, bootstrap=10)
    assert [row["name"] for row in rows] == [f"{source} (original)", f"{source} (erased)"]
    for row, side in zip(rows, ("original", "erased"), strict=True):
        reading = read_folder(instrument, source / "samples" / side, CLASSES, 10)
        theirs = score_reading(reading, CLASSES, [1], 10, reference, 10)["metrics"]
        for name, value in theirs.items():
            assert row["metrics"][name]["n"] == value["n"]
            for part in ("value", "low", "high"):
                assert row["metrics"][name][part] == pytest.approx(value[part], rel=1e-3, abs=1e-6)
        assert row["frechet_inception_distance"] == row["metrics"]["fid"]["value"]
        assert row["missing"] == {}
    assert rows[0]["metrics"].keys() == METRICS.keys() - {"neighbours"}
    assert rows[1]["metrics"].keys() == METRICS.keys()
    assert rows[0]["metrics"]["fid"]["value"] != rows[1]["metrics"]["fid"]["value"]
    table = rows[1]["metrics"]["neighbours"]
    assert {row["index"] for row in table} == set(CLASSES)
    by = {row["index"]: row for row in table}
    assert by[1]["forgotten"]
    assert sorted(by[c]["rank"] for c in (0, 2)) == [1, 2]
    assert by[0]["after"]["n"] == 10
    text = score_table(rows)
    (shares,) = [line for line in text.splitlines() if line.startswith("gate.retained ")]
    assert shares.count(" % (") == 2, "a share in percent, for both sides"
    assert f"{100 * rows[1]['metrics']['gate']['retained']['value']:.4g} %" in shares
    (distances,) = [line for line in text.splitlines() if line.startswith("fid ")]
    assert "%" not in distances
    assert "neighbour 1" in text
    assert "forgotten" in text


def test_distances_are_over_the_retained_classes_on_both_sides(source):
    row = score(source, "kid,prc")[1]
    instrument = make_instrument(classes=CLASSES)
    keep, truth = np.arange(30) % 3 != 1, np.arange(36) % 3 != 1
    mine = instrument.read([torch.from_numpy(pixels(30, 6)[keep]).permute(0, 3, 1, 2)]).features
    real = instrument.read([make_images(36, seed=3).arrays[truth]]).features
    expected = kid(mine, real)
    assert row["metrics"]["kid"]["value"] == pytest.approx(expected["value"], rel=1e-2)
    assert row["kernel_inception_distance_mean"] == row["metrics"]["kid"]["mean"]
    assert row["kernel_inception_distance_std"] == row["metrics"]["kid"]["std"]
    assert row["metrics"]["prc"]["precision"]["n"] == 20
    assert row["metrics"]["prc"]["recall"]["n"] == 24
    assert {"precision", "recall", "f_score"} <= row.keys()


def test_nothing_is_computed_twice(source, monkeypatch):
    first = score(source, bootstrap=5)

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("erase.readings.extract", refuse)
    for name in METRICS:
        monkeypatch.setitem(METRICS, name, refuse)
    assert score(source, bootstrap=5) == first
    with pytest.raises(AssertionError, match="computed again"):
        score(source, "fid", bootstrap=6)


def test_a_changed_pixel_is_scored_anew(source, tmp_path):
    import shutil

    shutil.copytree(source, tmp_path / "run")
    before = score(tmp_path / "run", "fid,fa")
    assert [r["metrics"] for r in before] == [r["metrics"] for r in score(source, "fid,fa")]
    image = pixels(30, 6)[0]
    image[:8] = 255 - image[:8]
    write_image(tmp_path / "run" / "samples" / "erased" / "0000" / "00000.png", image)
    after = score(tmp_path / "run", "fid,fa")
    assert after[0]["metrics"] == before[0]["metrics"]
    assert after[1]["metrics"]["fid"]["value"] != before[1]["metrics"]["fid"]["value"]
    data = source.parent / "data" / "name 0" / "0.png"
    kept = data.read_bytes()
    write_image(data, image)
    try:
        assert score(tmp_path / "run", "fid")[0]["metrics"] != after[0]["metrics"]
    finally:
        data.write_bytes(kept)


def test_a_folder_needs_its_reference_and_its_forgotten_class(source, tmp_path):
    folder, data = source / "samples" / "erased", source.parent / "data"
    everything = score(folder, extractor=str(source), bootstrap=0)[0]
    assert everything["metrics"].keys() == {"isc", "ra"}
    assert everything["missing"]["fid"] == "it needs real images; give --reference REF"
    assert everything["missing"]["fa"] == "it needs the forgotten class; give --forget CLASS"
    for metric, why in (("fid", "give --reference REF"), ("fa", "give --forget CLASS"), ("neighbours", "two sides")):
        with pytest.raises(UserError, match=f"{metric} of .*{why}"):
            score(folder, metric, extractor=str(source))
    row = score(folder, "fid,fa,gate", reference=data, extractor=str(source), forget=["1"], bootstrap=0)[0]
    assert row["metrics"]["fa"] == score(source, "fa")[1]["metrics"]["fa"]
    instrument = make_instrument(classes=CLASSES)
    keep = np.arange(30) % 3 != 1
    mine = instrument.read([torch.from_numpy(pixels(30, 6)[keep]).permute(0, 3, 1, 2)]).features
    real = instrument.read([make_images(36, seed=3).arrays]).features  # this reference has no numbers for names
    expected = distance(statistics(mine), statistics(real))
    assert row["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-3)


def test_a_statistics_file_gives_fid_alone(source, tmp_path):
    folder, data = source / "samples" / "erased", source.parent / "data"
    whole = fid(folder, data, str(source), save_reference=tmp_path / "real.safetensors")[0]
    row = score(folder, reference=tmp_path / "real.safetensors", extractor=str(source), bootstrap=0)[0]
    assert row["metrics"]["fid"]["value"] == pytest.approx(whole["fid"], rel=1e-4)
    assert "holds statistics of them" in row["missing"]["kid"]


def test_few_images_are_warned_of_once_a_metric(source):
    notes = score(source, bootstrap=0)[0]["notes"]
    assert "fid of 20 images; it means something from 30" in notes
    assert "per_class_fid of 10 images; it means something from 30" in notes
    assert len({note.split()[0] for note in notes}) == len(notes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"metrics": "fidd"}, "unknown metric 'fidd'; did you mean 'fid'"),
        ({"forget": ["1"]}, "a run knows what it forgot"),
        ({"reference": "absent"}, "no images at absent"),
        ({"extractor": "nowhere"}, "no extractor 'nowhere'"),
    ],
)
def test_wrong_use_is_one_line(source, words, message):
    with pytest.raises(UserError, match=message):
        score(source, **words)


def test_an_archive_has_no_classes(source, tmp_path):
    np.savez(tmp_path / "images.npz", pixels(30, 6))
    row = score(tmp_path / "images.npz", reference=source.parent / "data", extractor=str(source), bootstrap=0)[0]
    assert row["metrics"].keys() == {"fid", "kid", "isc", "prc"}
    assert "sub-folder a class" in row["missing"]["ra"]


def test_images_are_read_once_for_all_metrics(source, monkeypatch):
    seen = []
    original = Pictures.read
    monkeypatch.setattr(Pictures, "read", lambda self, *a: seen.append((self.name, a[0], a[1])) or original(self, *a))
    score(source, bootstrap=0)
    whole = [entry for entry in seen if entry[2] - entry[1] > 1]
    assert len(whole) == len(set(whole)) == 3  # both sides and the real images
