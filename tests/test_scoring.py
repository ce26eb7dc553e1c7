"""Scores of a folder of samples."""

import numpy as np
import pytest
import torch

from erase.data.images import read_image
from erase.errors import UserError
from erase.metrics.fid import distance, statistics
from erase.sampling import image_path
from erase.scoring import nearest_classes, read_folder, real_features, score_reading

from .helpers import make_images, write_image
from .test_classifier import make_instrument

CLASSES = [0, 3, 5]


@pytest.fixture
def samples(tmp_path):
    images = make_images(18, seed=9)
    for row, (label, number) in enumerate((label, number) for label in CLASSES for number in range(6)):
        write_image(image_path(tmp_path, label, number), images.arrays[row].permute(1, 2, 0))
    return tmp_path


def test_scores_are_those_of_the_images_read_one_by_one(samples):
    instrument = make_instrument()
    reference = statistics(instrument.read([make_images(30, seed=4).arrays]).features)
    row = score_reading(read_folder(instrument, samples, CLASSES, 6), CLASSES, [3], 6, reference, 5)
    readings = {
        label: instrument.read([read_image(image_path(samples, label, n))[None] for n in range(6)]) for label in CLASSES
    }
    called = {label: reading.answered == label for label, reading in readings.items()}
    both = {label: float((called[label] & readings[label].passed).mean()) for label in CLASSES}
    assert row["fa"] == both[3]
    assert row["fa_top1"] == float(called[3].mean())
    assert row["not_an_image"] == float((~readings[3].passed).mean())
    assert row["ra"] == pytest.approx((both[0] + both[5]) / 2)
    assert row["per_class_accuracy"] == {str(label): both[label] for label in CLASSES}
    retained = np.concatenate([readings[0].features, readings[5].features])
    assert row["fid"] == pytest.approx(distance(statistics(retained), reference), rel=1e-4)
    assert row["metrics"]["fid"]["low"] <= row["fid"] <= row["metrics"]["fid"]["high"]
    assert {row["fa_top1"], row["not_an_image"]} - {0.0, 1.0}  # something was told apart


def test_missing_samples_are_named(samples):
    image_path(samples, 5, 2).unlink()
    with pytest.raises(UserError, match=r"0005/00002\.png"):
        read_folder(make_instrument(), samples, CLASSES, 6)


def test_what_was_read_is_kept_under_the_key_of_the_samples_and_the_instrument(samples):
    instrument, other = make_instrument(), make_instrument(seed=1)
    first = read_folder(instrument, samples, CLASSES, 6, "key of the samples")
    image_path(samples, 5, 2).unlink()
    again = read_folder(instrument, samples, CLASSES, 6, "key of the samples")
    for name in ("answered", "passed", "features"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert getattr(first, name).dtype == getattr(again, name).dtype
    for instrument_, key in ((other, "key of the samples"), (instrument, "another key"), (instrument, None)):
        with pytest.raises(UserError):
            read_folder(instrument_, samples, CLASSES, 6, key)


def test_real_features_are_read_once_a_content():
    instrument, images = make_instrument(), make_images(9, seed=21)
    first = real_features(instrument, images)
    np.testing.assert_allclose(first, instrument.read([images.arrays]).features, atol=1e-6)

    def refuse(batches):
        raise AssertionError("read again")

    instrument.read = refuse
    assert np.array_equal(first, real_features(instrument, images))
    with pytest.raises(AssertionError, match="read again"):
        real_features(instrument, make_images(9, seed=22))


def test_the_nearest_classes_come_first():
    features = np.array([[0.0], [0.2], [10.0], [1.0], [1.2], [5.0]])
    labels = np.array([0, 0, 1, 2, 2, 3])
    assert nearest_classes(features, labels, [0]) == [2, 3, 1]
    assert nearest_classes(features, labels, [0, 1]) == [2, 3]
    assert nearest_classes(features, labels, [1]) == [3, 2, 0]


def test_images_are_read_as_they_lie(samples):
    pixels = read_image(image_path(samples, 0, 0))
    assert torch.equal(pixels, make_images(18, seed=9).arrays[0])
