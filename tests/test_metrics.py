"""Shares, intervals and the Frechet distance against closed forms."""

import math

import numpy as np
import pytest
import torch

from erase.errors import UserError
from erase.metrics import accuracy, intervals
from erase.metrics.extractor import register
from erase.metrics.fid import distance, fid, statistics

from .test_classifier import make_instrument


@pytest.fixture
def readings():
    """Class 0 is forgotten: of its five images two are called 0 (one of them passes), three 1 (one passes)."""
    asked = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    answered = np.array([0, 0, 1, 1, 1, 1, 1, 0, 1, 2, 0])
    passed = np.array([1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1], dtype=bool)
    return accuracy.Readings(asked, answered, passed)


def test_shares_of_the_forgotten_class(readings):
    assert accuracy.forget_accuracy(readings, [0])["value"] == 1 / 5
    assert accuracy.forget_accuracy_top1(readings, [0])["value"] == 2 / 5
    assert accuracy.not_an_image(readings, [0])["value"] == 3 / 5
    assert {accuracy.forget_accuracy(readings, [0])["n"], accuracy.not_an_image(readings, [0])["n"]} == {5}


def test_ra_is_the_mean_over_classes_and_not_over_images(readings):
    """Two of four, one of two: 1/2 each. Without the gate it would be 5/8, pooled over all with class 0 0.36."""
    value = accuracy.retain_accuracy(readings, [1, 2])
    assert value["value"] == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert value["n"] == 6
    ungated = accuracy.Readings(readings.asked, readings.answered, np.ones(11, dtype=bool))
    assert accuracy.retain_accuracy(ungated, [1, 2])["value"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert ungated.share_right([1, 2])["value"] == pytest.approx(4 / 6)


def test_an_image_called_a_retained_class_is_no_forget_hit(readings):
    """Negative control: counting every 0 answered, or every passing image, gives other numbers."""
    everywhere = (readings.answered == 0).mean()
    passing = readings.passed[readings.asked == 0].mean()
    assert accuracy.forget_accuracy(readings, [0])["value"] not in (everywhere, passing)


def test_several_forgotten_classes_count_each_for_itself():
    """An image asked for as 0 and called 1 shows neither, though both are forgotten."""
    readings = accuracy.Readings(np.array([0, 0, 1, 1]), np.array([1, 1, 1, 0]), np.ones(4, dtype=bool))
    assert accuracy.forget_accuracy(readings, [0, 1])["value"] == 1 / 4


def test_per_class_accuracy_is_gated_and_has_every_class(readings):
    assert accuracy.per_class_accuracy(readings) == {0: 1 / 5, 1: 2 / 4, 2: 1 / 2}


def test_no_images_have_no_share(readings):
    assert accuracy.forget_accuracy(readings, []) == {"value": None, "n": 0, "low": None, "high": None}


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 100, 0.0, 0.0370), (100, 100, 0.9630, 1.0), (50, 100, 0.4038, 0.5962), (8, 10, 0.4902, 0.9433)],
)
def test_wilson_intervals_are_those_of_the_tables(hits, n, low, high):
    found = intervals.share(hits, n)
    assert found["value"] == hits / n
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_wilson_interval_solves_its_equation():
    """Its ends are the p with |share - p| = z sqrt(p (1 - p) / n)."""
    found = intervals.share(3, 17)
    for p in (found["low"], found["high"]):
        assert abs(3 / 17 - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 17), rel=1e-9)


def gaussian(n, mean, scale, seed=0):
    """Features with exactly this mean and these standard deviations, and no correlation."""
    draw = np.random.default_rng(seed).standard_normal((n, len(mean)))
    draw -= draw.mean(0)
    draw = draw @ np.linalg.inv(np.linalg.cholesky(np.cov(draw, rowvar=False))).T
    return (draw * np.array(scale) + np.array(mean)).astype(np.float32)


def test_the_distance_of_diagonal_gaussians_is_the_closed_form():
    first = gaussian(200, [0.0, 1.0, -2.0], [1.0, 2.0, 0.5])
    second = gaussian(300, [1.0, 1.0, 0.0], [2.0, 2.0, 1.5], seed=1)
    wanted = (1 + 0 + 4) + (1 - 2) ** 2 + 0 + (0.5 - 1.5) ** 2
    assert distance(statistics(first), statistics(second)) == pytest.approx(wanted, rel=1e-4)
    assert distance(statistics(second), statistics(first)) == pytest.approx(wanted, rel=1e-4)


def test_the_distance_of_correlated_gaussians_is_the_closed_form():
    """S and 4 S: tr(S + 4 S - 2 * 2 S) = tr S."""
    mix = np.array([[1.0, 0.8], [0.0, 0.6]])
    first = gaussian(500, [0.0, 0.0], [1.0, 1.0]) @ mix
    wanted = np.trace(np.cov(first, rowvar=False))
    found = distance(statistics(first.astype(np.float32)), statistics((2 * first).astype(np.float32)))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_distance_to_itself_is_nothing_also_with_few_images():
    for n in (2, 5, 100):
        features = np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32)
        assert abs(distance(statistics(features), statistics(features))) < 1e-3


def test_one_image_has_no_distance():
    with pytest.raises(UserError, match="at least 2 images, not 1"):
        statistics(np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(UserError, match="at least 2 images, not 0"):
        fid(np.zeros((0, 4), dtype=np.float32), {})


def test_the_interval_holds_the_value_and_narrows_with_more_images():
    reference = statistics(gaussian(500, [0.0, 0.0], [1.0, 1.0]))
    widths = []
    for n in (40, 640):
        found = fid(gaussian(n, [1.0, 0.0], [1.0, 1.0], seed=2), reference, bootstrap=30)
        assert found["low"] < found["value"] < found["high"]
        assert found["n"] == n
        widths.append(found["high"] - found["low"])
    assert 2 < widths[0] / widths[1] < 8  # 4 is expected
    assert fid(gaussian(40, [1.0, 0.0], [1.0, 1.0]), reference)["low"] is None


def test_the_interval_is_repeatable():
    features = gaussian(30, [1.0, 0.0], [1.0, 1.0])
    reference = statistics(gaussian(50, [0.0, 0.0], [1.0, 1.0]))
    assert fid(features, reference, 10) == fid(features, reference, 10)


class Pixels(torch.utils.data.Dataset):
    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index]


def test_the_distance_equals_torch_fidelity_s_with_the_registered_extractor():
    import torch_fidelity

    instrument = make_instrument(width=8, features=6)
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8)
    second = torch.randint(128, (15, 3, 16, 16), generator=generator, dtype=torch.uint8)
    name = register(instrument)
    assert register(instrument) == name
    theirs = torch_fidelity.calculate_metrics(
        input1=Pixels(first), input2=Pixels(second), feature_extractor=name, fid=True, cuda=False, verbose=False,
        save_cpu_ram=True, batch_size=5, cache=False,
    )  # fmt: skip
    features = [instrument.read([pixels]).features for pixels in (first, second)]
    ours = fid(features[0], statistics(features[1]))["value"]
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4, abs=1e-6)
    assert ours > 1e-3
