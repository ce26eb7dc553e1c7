"""KID, Inception score, precision and recall, per-class FID: closed forms, torch-fidelity's numbers, wrong formulas."""

import numpy as np
import pytest
import torch

from erase.errors import UserError
from erase.metrics.enough import enough
from erase.metrics.fid import fid, statistics
from erase.metrics.inception_score import inception_score
from erase.metrics.kid import kid
from erase.metrics.per_class_fid import per_class_fid
from erase.metrics.precision_recall import precision_recall


def cloud(n, seed=0, d=4, scale=1.0, offset=0.0):
    return (np.random.default_rng(seed).standard_normal((n, d)) * scale + offset).astype(np.float32)


def kernel(x, y):
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def biased(x, y):
    """The known wrong formula: the diagonals left in."""
    return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()


def unbiased(x, y):
    a, b = kernel(x, x), kernel(y, y)
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (a, b))
    return within - 2 * kernel(x, y).mean()


@pytest.mark.parametrize(("n", "m"), [(2, 2), (30, 30), (40, 25), (25, 1100)])
def test_kid_is_the_unbiased_statistic_over_all_pairs(n, m):
    x, y = cloud(n), cloud(m, 1, offset=0.3)
    found = kid(x, y)
    assert found["value"] == pytest.approx(unbiased(x, y), rel=1e-5, abs=1e-7)
    assert abs(found["value"] - biased(x, y)) > 10 * abs(found["value"] - unbiased(x, y))
    assert found["n"] == n


@pytest.mark.parametrize(("n", "m"), [(30, 50), (1200, 1500)])
def test_kid_over_subsets_is_torch_fidelity_s_to_the_draw(n, m):
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = cloud(n, d=6), cloud(m, 1, d=6, offset=0.2)
    found = kid(x, y)
    theirs = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subset_size=min(1000, n, m), verbose=False
    )
    assert found["mean"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert found["std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-2, abs=1e-6)
    assert found["subset"] == min(1000, n)


def test_kid_subsets_never_exceed_the_images():
    """The known fault: torch-fidelity's default of 1000 is refused for fewer images."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = cloud(30), cloud(50, 1)
    with pytest.raises(ValueError, match="subset size 1000"):
        kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), verbose=False)
    assert kid(x, y)["subset"] == 30
    with pytest.raises(UserError, match="at least 2 images on either side, not 1, 50"):
        kid(x[:1], y)


def test_the_standard_error_of_kid_is_the_spread_over_fresh_images():
    found = [kid(cloud(60, seed), cloud(80, 1000 + seed, offset=0.5)) for seed in range(120)]
    spread = np.std([one["value"] for one in found], ddof=1)
    assert 0.75 < np.mean([one["stderr"] for one in found]) / spread < 1.35
    truth = np.mean([one["value"] for one in found])
    inside = np.mean([one["low"] <= truth <= one["high"] for one in found])
    assert 0.85 < inside <= 1


def test_kid_is_about_zero_for_one_distribution_and_may_be_negative():
    values = [kid(cloud(50, seed), cloud(50, 500 + seed))["value"] for seed in range(40)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40)


def test_precision_and_recall_are_the_right_way_round():
    """Generated images huddle in one of two real modes: precise, and with half the recall."""
    real = np.concatenate([cloud(100), cloud(100, 1, offset=50.0)])
    generated = cloud(120, 2)
    found = precision_recall(generated, real)
    assert found["precision"]["value"] > 0.75
    assert 0.35 < found["recall"]["value"] < 0.55
    assert (found["precision"]["n"], found["recall"]["n"]) == (120, 200)
    swapped = precision_recall(real, generated)
    assert swapped["precision"]["value"] == found["recall"]["value"]
    assert swapped["recall"]["value"] == found["precision"]["value"]
    p, r = found["precision"]["value"], found["recall"]["value"]
    assert found["f_score"]["value"] == pytest.approx(2 * p * r / (p + r))


def test_precision_is_the_share_of_generated_images_inside_a_real_neighbourhood():
    """On a line: each real point's ball reaches its third neighbour."""
    real = np.array([[0.0], [1.0], [2.0], [3.0], [4.0]], dtype=np.float32)
    generated = np.array([[-2.5], [-3.5], [2.2], [6.5], [7.5]], dtype=np.float32)
    assert precision_recall(generated, real)["precision"]["value"] == 3 / 5  # balls of 3 at 0 and 4, 2 inside
    with pytest.raises(UserError, match="need 4 images on either side, not 3, 5"):
        precision_recall(generated[:3], real)


def test_the_inception_score_of_answers_alike_is_one_and_of_certain_ones_the_classes():
    certain = np.eye(5, dtype=np.float32)[np.arange(1000) % 5] * 100
    assert inception_score(certain)["value"] == pytest.approx(5, rel=0.02)
    alike = np.tile(cloud(1, d=5), (1000, 1))
    assert inception_score(alike)["value"] == pytest.approx(1)


def test_the_inception_score_is_torch_fidelity_s():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = cloud(300, d=7, scale=2)
    theirs = isc_features_to_metric(torch.from_numpy(logits))
    found = inception_score(logits, bootstrap=20)
    assert (found["value"], found["std"]) == (theirs["inception_score_mean"], theirs["inception_score_std"])
    assert found["low"] < found["value"] < found["high"]
    assert inception_score(logits[:4])["splits"] == 4


def test_each_class_is_compared_to_its_own_real_images():
    asked, labels = np.repeat([0, 1, 2], [30, 40, 1]), np.repeat([0, 1, 2], [50, 60, 20])
    features, real = cloud(71), cloud(130, 1)
    features[asked == 1] += 3
    real[labels == 1] += 3
    found = per_class_fid(features, asked, real, labels)
    assert found.keys() == {0, 1}
    assert found[1]["value"] == fid(features[asked == 1], statistics(real[labels == 1]))["value"]
    assert found[1]["value"] < 1
    assert fid(features[asked == 1], statistics(real))["value"] > 3 * found[1]["value"]


def test_how_many_images_are_enough():
    assert enough("fid", 2048, 1008) == 10_240
    assert enough("isc", 2048, 1000) == 50_000
    assert enough("fa", 64, 10) == 100
    assert enough("recall", 64, 10) == 1000
