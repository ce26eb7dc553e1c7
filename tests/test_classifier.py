"""The classifier and its gate."""

import numpy as np
import pytest
import torch

from erase.classifier import Classifier, Gate, Instrument, load_instrument, save_instrument
from erase.errors import UserError

from .helpers import make_images


def make_instrument(width=8, features=6, classes=(0, 3, 5), seed=0):
    """A random classifier with a gate over random images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(len(classes), width, features).eval()
    with torch.no_grad():
        middle = [network(make_images(20, seed=s).arrays)[2] for s in (1, 2)]
    return Instrument(network, Gate.fit(*middle, 0.9), list(classes), "Classifier", f"test-{seed}-{width}-{features}")


def points(n, seed, scale=1.0, d=5):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99, 0.995, 1.0])
@pytest.mark.parametrize("n", [10, 101, 360])
def test_a_gate_keeps_the_share_it_states_and_not_much_more(keep, n):
    held_out = points(n, 2)
    gate = Gate.fit(points(200, 1), held_out, keep)
    kept = (gate.distance(held_out) <= gate.threshold).float().mean().item()
    assert keep <= kept < keep + 2 / n


def test_a_gate_keeps_about_as_much_of_what_it_has_not_seen():
    gate = Gate.fit(points(1000, 1), points(1000, 2), 0.9)
    kept = (gate.distance(points(1000, 3)) <= gate.threshold).float().mean().item()
    assert 0.85 < kept < 0.95


def test_a_gate_refuses_what_lies_far_from_every_training_image():
    gate = Gate.fit(points(200, 1), points(200, 2), 0.99)
    assert (gate.distance(points(50, 3, scale=10.0)) > gate.threshold).float().mean() > 0.9


def test_a_distance_is_the_mean_of_the_three_nearest_in_units_of_the_deviation():
    bank = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0], [40.0, 0.0]])
    gate = Gate(bank, torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]), 0.0)
    assert gate.distance(torch.tensor([[1.0, 0.0]])).item() == pytest.approx((0 + 3 + 5) / 3, rel=1e-5)
    assert gate.distance(torch.tensor([[3.0, 0.0]])).item() == pytest.approx((1 + 2 + 26**0.5) / 3, rel=1e-5)


def test_one_batch_or_many_give_the_same_reading():
    instrument, images = make_instrument(), make_images(12, seed=3)
    whole = instrument.read([images.arrays])
    parts = instrument.read(images.batches(range(12), 5))
    assert np.array_equal(whole.answered, parts.answered)
    assert np.array_equal(whole.passed, parts.passed)
    assert np.allclose(whole.features, parts.features, atol=1e-6)
    assert whole.features.shape == (12, 6)
    assert whole.passed.dtype == bool


def test_answers_are_class_ids():
    instrument = make_instrument(classes=(4, 70, 900))
    images = make_images(30, seed=3).arrays
    answered = instrument.read([images]).answered
    logits = instrument.network(images)[0]
    assert answered.tolist() == [[4, 70, 900][i] for i in logits.argmax(1).tolist()]
    assert answered.dtype == np.int64


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 3, 16, 16),
        torch.zeros(2, 16, 16, 3, dtype=torch.uint8),
        torch.zeros(2, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
    ],
)
def test_anything_but_uint8_rgb_is_refused(images):
    with pytest.raises(ValueError, match="expected uint8 n x 3 x H x W"):
        make_instrument().read([images])


@pytest.mark.parametrize("size", [16, 32, 40])
def test_images_of_any_size_are_read(size):
    reading = make_instrument().read([make_images(3, size=size).arrays])
    assert reading.features.shape == (3, 6)


def test_a_saved_instrument_reads_the_same(tmp_path):
    instrument, images = make_instrument(), make_images(40, seed=5).arrays
    save_instrument(instrument, tmp_path, {"gate_kept": 0.9})
    loaded = load_instrument(tmp_path)
    first, second = instrument.read([images]), loaded.read([images])
    assert np.array_equal(first.answered, second.answered)
    assert np.array_equal(first.passed, second.passed)
    assert np.array_equal(first.features, second.features)
    assert loaded.gate.threshold == instrument.gate.threshold
    assert loaded.classes == [0, 3, 5]
    assert 0 < first.passed.sum() < 40  # the gate tells something apart


def test_name_and_key_follow_the_content(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_instrument(make_instrument(seed=seed), tmp_path / name, {})
    a, b, c = (load_instrument(tmp_path / name) for name in "abc")
    assert a.key == b.key != c.key
    assert a.name == b.name != c.name


def test_a_missing_classifier_says_how_to_go_on(tmp_path):
    with pytest.raises(UserError, match=r"no classifier at .*; score\.allow_missing=true"):
        load_instrument(tmp_path)


@pytest.mark.parametrize("damage", ["gate absent", "weights cut", "other width"])
def test_a_damaged_classifier_is_refused(tmp_path, damage):
    save_instrument(make_instrument(), tmp_path, {})
    if damage == "gate absent":
        (tmp_path / "gate.safetensors").unlink()
    elif damage == "weights cut":
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
    else:
        path = tmp_path / "config.json"
        path.write_text(path.read_text().replace('"width": 8', '"width": 16'))
    with pytest.raises(UserError, match=tmp_path.name) as raised:
        load_instrument(tmp_path)
    assert "\n" not in str(raised.value)
