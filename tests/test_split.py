"""What is forgotten and what is retained."""

import numpy as np
import pytest
import torch

from erase.config import RunConfig
from erase.data.latents import LatentSet
from erase.data.moments import Moments
from erase.data.split import Split, encode_split
from erase.model import weights_key
from erase.presets import resolve

from .helpers import make_images, make_model


def config(words=None, **asked):
    return resolve(RunConfig(**{"forget": ["1"], "preset": "digits/sfron-dual", **asked}), words)


def make_split(n=30):
    """Row i is the constant latent i, of class i % 3; class 1 is forgotten."""
    mean = torch.arange(float(n))[:, None, None, None]
    labels = np.arange(n) % 3
    whole = LatentSet(Moments(mean, 0 * mean, 1.0), np.arange(n), labels)
    return Split({"forget": whole.part(labels == 1), "retain": whole.part(labels != 1)}, 12)


def test_the_forget_stream_holds_the_forgotten_class_alone_and_never_null():
    stream = make_split().training("forget", config({"unlearn": {"label_dropout": 0.9}}))
    batches = [stream.batch(step) for step in range(5)]
    assert {label for batch in batches for label in batch.labels.tolist()} == {1}
    assert {int(x) % 3 for batch in batches for x in batch.x0.flatten()} == {1}


def test_the_retain_stream_holds_the_others_with_labels_dropped():
    stream = make_split().training("retain", config({"unlearn": {"label_dropout": 0.3}}))
    batches = [stream.batch(step) for step in range(20)]
    labels = torch.cat([batch.labels for batch in batches])
    assert set(labels.tolist()) == {0, 2, 12}
    assert 0.25 < (labels == 12).float().mean().item() < 0.35
    assert {int(x) % 3 for batch in batches for x in batch.x0.flatten()} == {0, 2}


def test_what_is_computed_beforehand_sees_every_label():
    for side, classes in (("retain", {0, 2}), ("forget", {1})):
        assert set(make_split().beforehand(side, 0, 30).batch(0).labels.tolist()) == classes


def test_sides_purposes_and_seeds_have_streams_of_their_own():
    split, settings = make_split(), config({"unlearn": {"label_dropout": 0.0}})
    streams = [
        split.training("retain", settings),
        split.training("forget", settings),
        split.training("retain", config(seed=1)),
        split.beforehand("retain", 0, 64),
        split.beforehand("retain", 1, 64),
    ]
    draws = [stream.batch(0).noise for stream in streams]
    assert all(not torch.isclose(a, b).any() for i, a in enumerate(draws) for b in draws[:i])


def test_batch_sizes_are_those_of_the_objectives():
    settings = config({"unlearn": {"forget": {"batch_size": 3}, "retain": {"batch_size": 5}}})
    assert len(make_split().training("forget", settings).batch(0)) == 3
    assert len(make_split().training("retain", settings).batch(0)) == 5


@pytest.mark.parametrize("flip", [False, True])
def test_the_split_is_of_the_training_images_and_their_mirror_images(flip):
    model, images = make_model(), make_images(24, seed=31)
    split = encode_split(model.vae, weights_key(model.vae), images, model.classes, [1], 12, flip)
    n = int((~images.held_out).sum())
    forget, retain = split.sets["forget"], split.sets["retain"]
    assert sorted([*forget.rows, *retain.rows]) == list(range(n * (1 + flip)))
    assert set(forget.labels) == {1}
    assert set(retain.labels) == {0, 2}
    stream = split.beforehand("forget", 0, len(forget))
    assert set(stream.batch(0).labels.tolist()) == {1}


def test_classes_out_of_use_are_left_out():
    model, images = make_model(), make_images(24, seed=31)
    split = encode_split(model.vae, "key", images, [0, 1], [1], 12, False)
    assert {int(label) for side in split.sets.values() for label in side.labels} == {0, 1}
