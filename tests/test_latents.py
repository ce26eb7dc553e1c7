"""The stateless stream."""

import dataclasses

import numpy as np
import torch

from erase.data.latents import LatentStream
from erase.data.moments import Moments

from .helpers import make_stream

FIELDS = ("x0", "noise", "t", "labels")


def equal(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_a_batch_is_a_function_of_its_number():
    stream = make_stream(dropout=0.5)
    in_order = [stream.batch(step) for step in range(6)]
    backwards = {step: make_stream(dropout=0.5).batch(step) for step in reversed(range(6))}
    assert all(equal(batch, backwards[step]) for step, batch in enumerate(in_order))
    assert not equal(in_order[0], in_order[1])


def test_seed_and_name_change_every_part_of_a_batch():
    first = make_stream(rows=500, size=100).batch(0)
    for other in (make_stream(rows=500, size=100, seed=1), make_stream(rows=500, size=100, name="forget")):
        second = other.batch(0)
        assert not any(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_every_row_comes_once_an_epoch():
    moments = Moments(torch.arange(10.0)[:, None, None, None], torch.zeros(10, 1, 1, 1), 1.0)
    stream = LatentStream(moments, np.arange(10), np.arange(10), 0, "s", 4, 99)
    seen = torch.cat([stream.batch(step).x0.flatten() for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))


def test_labels_stay_with_their_rows():
    moments = Moments(torch.arange(10.0)[:, None, None, None], torch.zeros(10, 1, 1, 1), 1.0)
    rows, labels = np.array([7, 2, 5]), np.array([70, 20, 50])
    batch = LatentStream(moments, rows, labels, 0, "s", 6, 99).batch(0)
    assert torch.equal(batch.labels, 10 * batch.x0.flatten().long())
    assert set(batch.labels.tolist()) == {20, 50, 70}


def test_latents_are_drawn_from_their_moments_and_scaled():
    mean = torch.full((1, 4, 8, 8), 3.0)
    stream = LatentStream(Moments(mean, torch.full_like(mean, 2.0), 0.5), np.array([0]), np.array([0]), 0, "s", 1, 9)
    draws = torch.cat([stream.batch(step).x0 for step in range(60)])
    assert abs(draws.mean().item() - 1.5) < 0.05
    assert abs(draws.std().item() - 1.0) < 0.05
    assert not torch.equal(draws[0], draws[1])


def test_label_dropout_only_replaces_by_null_and_at_its_share():
    kept, dropped = (make_stream(rows=600, size=300, dropout=share) for share in (0.0, 0.1))
    before, after = (torch.cat([s.batch(step).labels for step in range(10)]) for s in (kept, dropped))
    changed = before != after
    assert set(after[changed].tolist()) == {12}
    assert 0.08 < changed.float().mean().item() < 0.12
    assert after.dtype == torch.int64


def test_label_dropout_changes_nothing_but_labels():
    plain, dropped = make_stream(dropout=0.0).batch(3), make_stream(dropout=0.9).batch(3)
    assert all(torch.equal(getattr(plain, name), getattr(dropped, name)) for name in ("x0", "noise", "t"))


def test_timesteps_cover_their_range():
    stream = dataclasses.replace(make_stream(rows=50, size=50), timesteps=10)
    t = torch.cat([stream.batch(step).t for step in range(20)])
    assert set(t.tolist()) == set(range(10))
    slices = make_stream(rows=50, size=50).batch(0).t // 20
    assert sorted(slices.tolist()) == list(range(50))  # a batch covers all noise levels


def test_a_smaller_batch_is_the_start_of_a_larger_one_at_step_0():
    """All but the timesteps, which fill the slices of their own batch."""
    small, large = (make_stream(rows=30, size=size).batch(0) for size in (4, 16))
    assert all(torch.equal(getattr(small, name), getattr(large, name)[:4]) for name in ("x0", "noise", "labels"))
