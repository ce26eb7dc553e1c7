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
