"""Parts of the main flow that need no trained model."""

import dataclasses

import numpy as np
import pytest
import torch
import yaml

from erase.classifier import save_instrument
from erase.config import RunConfig, SampleConfig, as_mapping
from erase.data.latents import Moments
from erase.errors import UserError
from erase.methods.base import Method
from erase.methods.sfron import SFRon
from erase.model import load_model, save_model
from erase.presets import resolve
from erase.sampling import image_path, sample_folder
from erase.unlearning import (
    Split,
    claim_folder,
    copy_samples,
    data_source,
    encode_split,
    folder_classes,
    original_samples,
    precompute,
    preflight,
)

from .helpers import make_images, make_model, write_image
from .test_classifier import make_instrument


def config(words=None, **asked):
    return resolve(RunConfig(**{"forget": ["1"], "preset": "digits/sfron-dual", **asked}), words)


def make_split(n=30):
    mean = torch.arange(float(n))[:, None, None, None]
    labels = np.arange(n) % 3
    gone = labels == 1
    return Split(Moments(mean, 0 * mean, 1.0), {"forget": np.flatnonzero(gone), "retain": np.flatnonzero(~gone)}, labels)


def test_the_forget_stream_holds_the_forgotten_class_alone_and_never_null():
    settings = config({"unlearn": {"label_dropout": 0.9}})
    stream = make_split().stream("forget", settings, 12)
    labels = torch.cat([stream.batch(step).labels for step in range(5)])
    assert set(labels.tolist()) == {1}


def test_the_retain_stream_holds_the_others_with_labels_dropped():
    settings = config({"unlearn": {"label_dropout": 0.3}})
    stream = make_split().stream("retain", settings, 12)
    batches = [stream.batch(step) for step in range(20)]
    labels = torch.cat([batch.labels for batch in batches])
    assert set(labels.tolist()) == {0, 2, 12}
    assert 0.25 < (labels == 12).float().mean().item() < 0.35
    assert {int(x) % 3 for batch in batches for x in batch.x0.flatten()} == {0, 2}


def test_what_is_computed_beforehand_sees_every_label():
    stream = make_split().whole("retain", config({"unlearn": {"label_dropout": 0.9}}), 12, 16)
    assert set(stream.batch(0).labels.tolist()) == {0, 2}


def test_streams_follow_the_seed():
    first, second = (make_split().stream("retain", config(seed=seed), 12).batch(0) for seed in (0, 1))
    assert not torch.equal(first.noise, second.noise)


@pytest.mark.parametrize("flip", [False, True])
def test_the_split_is_of_the_training_images(flip):
    model, images = make_model(), make_images(24, seed=31)
    split = encode_split(config({"data": {"flip": flip}}), model, images, [1])
    n = int((~images.held_out).sum())
    assert len(split.moments.mean) == n * (1 + flip)
    both = np.concatenate(list(split.rows.values()))
    assert sorted(both) == list(range(n * (1 + flip)))
    assert set(split.labels[split.rows["forget"] % n]) == {1}
    assert set(split.labels[split.rows["retain"] % n]) == {0, 2}


class Counting(Method):
    """Records how many samples it was given."""

    name = "counting"

    def precompute(self, beforehand):
        batches = list(beforehand.batches("forget", self.task))
        return {"sizes": torch.tensor([len(batch) for batch in batches])}


@pytest.mark.parametrize("samples", [10, 64, 128])
def test_batches_for_what_is_computed_beforehand_hold_as_many_samples_as_asked(tmp_path, samples):
    made = precompute(tmp_path, config(), Counting(None, samples), make_model(), make_split(), torch.device("cpu"))
    assert made["sizes"].sum() == samples


@pytest.mark.xfail(strict=True, reason="erase/unlearning.py: precompute() drops the last, smaller batch")
@pytest.mark.parametrize("samples", [65, 100, 1000])
def test_batches_hold_as_many_samples_as_asked_also_if_64_does_not_divide_them(tmp_path, samples):
    made = precompute(tmp_path, config(), Counting(None, samples), make_model(), make_split(), torch.device("cpu"))
    assert made["sizes"].sum() == samples


def test_what_was_computed_beforehand_is_kept(tmp_path):
    first = precompute(tmp_path, config(), Counting(None, 10), make_model(), make_split(), torch.device("cpu"))
    again = precompute(tmp_path, config(), Counting(None, 20), make_model(), make_split(), torch.device("cpu"))
    assert torch.equal(first["sizes"], again["sizes"])
    assert (tmp_path / "sfron.safetensors").is_file()


@pytest.mark.xfail(strict=True, reason="erase/unlearning.py: precompute() looks for the name in the class itself")
def test_an_inherited_precompute_is_called(tmp_path):
    class Child(Counting):
        pass

    made = precompute(tmp_path, config(), Child(None, 10), make_model(), make_split(), torch.device("cpu"))
    assert made


def test_a_method_that_needs_nothing_beforehand_writes_nothing(tmp_path):
    class Plain(Method):
        name = "plain"

    assert precompute(tmp_path, config(), Plain(None, None), make_model(), make_split(), torch.device("cpu")) == {}
    assert list(tmp_path.iterdir()) == []
    assert "precompute" in SFRon.__dict__


def test_a_run_folder_is_claimed_once_and_again_by_the_same_run(tmp_path):
    claim_folder(tmp_path / "run", config())
    held = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert held == as_mapping(config())
    claim_folder(tmp_path / "run", config({"runtime": {"threads": 1}}))
    for other, key in ((config(seed=1), "seed"), (config({"unlearn": {"rounds": 3}}), "unlearn.rounds")):
        with pytest.raises(UserError, match=rf"differs in {key}; give another --output"):
            claim_folder(tmp_path / "run", other)


@pytest.mark.xfail(strict=True, reason="erase/unlearning.py: claim_folder() reads config.yaml without load_yaml()")
@pytest.mark.parametrize("text", ["a: [1", "just text"])
def test_a_damaged_config_in_a_run_folder_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        claim_folder(tmp_path, config())


@pytest.fixture
def ready(tmp_path):
    """A loaded pack with classifier and data."""
    about = {"version": 1, "classes": [0, 1, 2], "data": {"source": str(tmp_path / "data")}}
    save_model(make_model(pack=about), tmp_path / "pack")
    save_instrument(make_instrument(classes=(0, 1, 2)), tmp_path / "pack" / "classifier", {})
    for label in range(3):
        for number in range(3):
            write_image(tmp_path / "data" / f"name {label}" / f"{number}.png", np.zeros((16, 16, 3)))
    return load_model(str(tmp_path / "pack"))


def test_preflight_finds_what_the_end_needs(ready):
    stage = preflight(config(), ready, [1])
    assert len(stage.images) == 9
    assert stage.images.names == ready.labels
    assert stage.instrument.classes == [0, 1, 2]
    assert stage.why == ""


def test_a_missing_classifier_is_refused_or_noted(ready, tmp_path):
    (tmp_path / "pack" / "classifier" / "config.json").unlink()
    with pytest.raises(UserError, match="no classifier at"):
        preflight(config(), ready, [1])
    stage = preflight(config({"score": {"allow_missing": True}}), ready, [1])
    assert stage.instrument is None
    assert "no classifier at" in stage.why


def test_the_data_is_the_config_s_or_the_pack_s(ready):
    assert data_source(config(data="elsewhere"), ready) == "elsewhere"
    assert data_source(config(), ready) == ready.pack["data"]["source"]
    with pytest.raises(UserError, match="no data; give --data"):
        data_source(config(), make_model())
    assert folder_classes(ready) == {"name 0": 0, "name 1": 1, "name 2": 2}


def test_original_samples_are_made_once_a_protocol(monkeypatch):
    model, sample = make_model(), SampleConfig(per_class=2, steps=1)
    folder = original_samples(model, sample)
    assert len(list(folder.rglob("*.png"))) == 6
    monkeypatch.setattr("erase.sampling.sample", None)  # any further drawing would fail
    assert original_samples(model, sample) == folder
    with pytest.raises(TypeError):
        original_samples(model, dataclasses.replace(sample, guidance_scale=2.0))


def test_copied_samples_are_those_of_the_source(tmp_path):
    model, sample = make_model(), SampleConfig(per_class=3, steps=1)
    sample_folder(model, tmp_path / "a", sample, [0, 2], "test")
    copy_samples(tmp_path / "a", tmp_path / "b", dataclasses.replace(sample, per_class=2), [0, 2])
    assert len(list((tmp_path / "b").rglob("*.png"))) == 4
    first, second = (image_path(tmp_path / side, 2, 1).read_bytes() for side in "ab")
    assert first == second
