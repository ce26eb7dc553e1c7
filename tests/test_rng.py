"""Draws as functions of (seed, stream, step, sample index)."""

import numpy as np
import pytest
import torch

from erase import rng


@pytest.mark.parametrize("few", [1, 3, 7])
def test_a_row_does_not_depend_on_how_many_are_drawn(few):
    many = 64
    shape = (3, 5)
    assert torch.equal(rng.normal(1, "s", 2, (few, *shape)), rng.normal(1, "s", 2, (many, *shape))[:few])
    assert torch.equal(rng.integers(1, "s", 2, few, 1000), rng.integers(1, "s", 2, many, 1000)[:few])
    assert torch.equal(rng.uniform(1, "s", 2, few), rng.uniform(1, "s", 2, many)[:few])


def test_seed_stream_and_step_each_change_the_draw():
    first = rng.normal(0, "noise", 0, (8,))
    assert torch.equal(first, rng.normal(0, "noise", 0, (8,)))
    for other in ((1, "noise", 0), (0, "latent", 0), (0, "noise", 1)):
        assert not torch.isclose(first, rng.normal(*other, (8,))).any()


def test_names_and_numbers_do_not_run_together():
    assert not torch.equal(rng.uniform(1, "1/a", 0, 4), rng.uniform(11, "a", 0, 4))


def test_draws_are_standard_normal():
    draw = rng.normal(0, "s", 0, (50_000,))
    assert draw.dtype == torch.float32
    assert abs(draw.mean().item()) < 0.02
    assert abs(draw.std().item() - 1) < 0.02
    neighbour = rng.normal(0, "s", 1, (50_000,))
    assert abs((draw * neighbour).mean().item()) < 0.02


def test_integers_fill_their_range():
    draw = rng.integers(0, "t", 0, 5000, 10)
    assert draw.dtype == torch.int64
    assert set(draw.tolist()) == set(range(10))


def test_drawing_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    rng.normal(0, "s", 0, (4,))
    rng.epoch_indices(0, "s", 0, 4, 8)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(("count", "high"), [(1, 1000), (4, 1000), (64, 1000), (7, 1000), (3000, 1000), (10, 10)])
def test_stratified_draws_fall_one_in_each_slice(count, high):
    draws = rng.stratified(0, "t", 0, count, high)
    assert draws.dtype == torch.int64
    assert 0 <= draws.min() <= draws.max() < high
    edges = np.arange(count) * high / count
    ordered = np.sort(draws.numpy())
    assert (ordered >= np.floor(edges)).all()
    assert (ordered <= np.ceil(edges + high / count)).all()
    assert torch.equal(draws, rng.stratified(0, "t", 0, count, high))


def test_stratified_draws_are_each_uniform_and_in_random_order():
    draws = torch.stack([rng.stratified(0, "t", step, 4, 12) for step in range(3000)])
    for column in draws.T:
        counts = torch.bincount(column, minlength=12)
        assert len(counts) == 12
        assert (counts - 250).abs().max() < 80  # five standard deviations
    assert draws.sort(1).values.float().mean(0).tolist() == pytest.approx([1, 4, 7, 10], abs=0.1)


@pytest.mark.parametrize(("count", "size"), [(4, 12), (4, 10), (7, 10), (25, 10), (10, 10)])
def test_every_item_comes_once_an_epoch(count, size):
    steps = 3 * size  # whole epochs, whatever the batch size
    order = np.concatenate([rng.epoch_indices(3, "s", step, count, size) for step in range(steps)])
    for epoch in order.reshape(-1, size):
        assert sorted(epoch) == list(range(size))


def test_epochs_have_orders_of_their_own():
    first, second = (rng.epoch_indices(0, "s", epoch, 50, 50) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(50))


def test_image_seed_tells_class_number_and_seed_apart():
    seeds = {rng.image_seed(s, c, i) for s in range(3) for c in range(20) for i in range(20)}
    assert len(seeds) == 3 * 20 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rng.image_seed(0, 1, 11) != rng.image_seed(0, 11, 1)
    assert rng.image_seed(0, 3, 0) == rng.image_seed(0, 3, 0)


def test_image_seeds_are_those_of_released_results():
    """Changing the function would silently redraw every image of every recorded run."""
    assert rng.image_seed(0, 3, 0) == 3413953778810702287


def test_an_epoch_is_permuted_once_and_batches_are_as_before(monkeypatch):
    drawn = []
    plain = rng.generator
    monkeypatch.setattr(rng, "generator", lambda *words: (drawn.append(words), plain(*words))[1])
    found = np.concatenate([rng.epoch_indices(9, "once", step, 10, 30) for step in range(6)])
    assert len(drawn) == 2
    assert np.array_equal(found, np.concatenate([plain(9, "once", epoch).permutation(30) for epoch in (0, 1)]))
