"""Streaming mean and covariance against those of everything at once."""

import numpy as np
import pytest
import torch

from erase.errors import UserError
from erase.metrics.fid import distance, distance_to, fid, root_of, statistics, wide_fid
from erase.metrics.moments import ROWS, Moments


def draws(n, d=9, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn((d, d), generator=generator)
    return torch.randn((n, d), generator=generator) @ mix + offset


def streamed(features, *sizes):
    found = Moments()
    start = 0
    while start < len(features):
        for size in sizes:
            found.add(features[start : start + size])
            start += size
    return found


@pytest.mark.parametrize("n", [2, 3, 10, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 17])
@pytest.mark.parametrize("sizes", [(1000,), (64,), (7, 100), (1,)])
def test_streaming_equals_all_at_once(n, sizes):
    features = draws(n)
    found = streamed(features, *sizes).statistics()
    np.testing.assert_allclose(found["mu"], features.double().mean(0).numpy(), rtol=1e-12, atol=1e-13)
    whole = np.cov(features.double().numpy(), rowvar=False)
    np.testing.assert_allclose(found["sigma"], whole, rtol=1e-10, atol=1e-12)


def test_the_batches_leave_no_trace_at_all():
    features = draws(2000)
    first, second = (streamed(features, *sizes).statistics() for sizes in ((1,), (64, 300)))
    assert np.array_equal(first["mu"], second["mu"])
    assert np.array_equal(first["sigma"], second["sigma"])


def test_a_mean_far_from_zero_does_not_cancel():
    """Negative control: raw sums of squares lose it all."""
    features = (draws(3000).double() + 1e8).double()
    found = streamed(features, 64).statistics()["sigma"]
    whole = np.cov((features - 1e8).numpy(), rowvar=False)
    np.testing.assert_allclose(found, whole, rtol=1e-6)
    raw = (features.T @ features - len(features) * torch.outer(features.mean(0), features.mean(0))) / 2999
    assert np.abs(raw.numpy() - whole).max() > 0.1


def test_partial_sums_merge():
    features = draws(1500)
    parts = [streamed(part, 50) for part in features.split([700, 0, 799, 1])]
    total = Moments()
    for part in parts:
        total.merge(part)
    np.testing.assert_allclose(total.statistics()["sigma"], np.cov(features.double().numpy().T), rtol=1e-10)
    assert total.count == 1500
    np.testing.assert_allclose(parts[0].statistics()["sigma"], np.cov(features[:700].double().numpy().T), rtol=1e-10)


def test_few_images_in_many_dimensions_have_a_distance():
    """Rank deficient; torch-fidelity's own numbers."""
    first, second = draws(12, 40), draws(15, 40, seed=0, offset=0.5)
    mine = distance(streamed(first, 5).statistics(), streamed(second, 4).statistics())
    theirs = distance(statistics(first.numpy()), statistics(second.numpy()))
    assert mine == pytest.approx(theirs, rel=1e-4)
    assert abs(distance(streamed(first, 5).statistics(), streamed(first, 3).statistics())) < 1e-4


def test_a_float64_and_a_float32_mean_can_be_compared():
    first, second = draws(30), draws(40, seed=2)
    mixed = distance(streamed(first, 5).statistics(), statistics(second.numpy()))
    assert mixed == pytest.approx(distance(statistics(first.numpy()), statistics(second.numpy())), rel=1e-5)


def test_too_few_or_broken_features_are_refused():
    with pytest.raises(UserError, match="not 1"):
        streamed(draws(1), 1).statistics()
    with pytest.raises(UserError, match="not 0"):
        Moments().statistics()
    features = draws(10)
    features[3, 2] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        streamed(features, 4).statistics()


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 9), (12, 15, 40), (12, 300, 40), (300, 12, 40), (2, 2, 5)])
def test_the_root_of_the_reference_gives_torch_fidelity_s_distance(n, m, d):
    first, second = draws(n, d), draws(m, d, seed=1, offset=0.3)
    theirs = distance(statistics(first.numpy()), statistics(second.numpy()))
    reference = streamed(second, 50).statistics()
    assert distance_to(streamed(first, 50).statistics(), reference, root_of(reference)) == pytest.approx(
        theirs, rel=1e-4
    )


@pytest.mark.parametrize(("n", "m", "d"), [(12, 300, 40), (30, 20, 40), (50, 60, 9)])
def test_few_images_with_wide_features_have_the_same_distance_and_interval(n, m, d):
    first, second = draws(n, d).numpy(), draws(m, d, seed=1, offset=0.3).numpy()
    plain, wide = fid(first, statistics(second), 20), wide_fid(first, statistics(second), 20)
    assert wide.keys() == plain.keys()
    for name, value in plain.items():
        assert wide[name] == pytest.approx(value, rel=1e-4)
    with pytest.raises(UserError, match="not 1"):
        wide_fid(first[:1], statistics(second), 20)
