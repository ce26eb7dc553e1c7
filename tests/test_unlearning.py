"""Parts of the main flow that need no trained model."""

import dataclasses
import shutil
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml

from erase.beforehand import prepare
from erase.classifier import save_instrument
from erase.config import RunConfig, RuntimeConfig, SampleConfig, as_mapping
from erase.errors import UserError
from erase.files import cache_folder
from erase.methods import METHODS, Method, Options
from erase.model import load_model, save_model
from erase.originals import copy_samples, original_samples
from erase.precision import restore_forward
from erase.presets import resolve, training_key
from erase.runfolder import check_folder, claim_folder
from erase.sampling import image_path, sample_folder
from erase.stage import data_source, preflight
from erase.steplog import BadNumberError
from erase.trainer import make_accelerator
from erase.unlearning import run

from .helpers import make_batch, make_model, write_image
from .test_classifier import make_instrument
from .test_split import make_split


def config(words=None, **asked):
    return resolve(RunConfig(**{"forget": ["1"], "preset": "digits/sfron-dual", **asked}), words)


@dataclasses.dataclass(frozen=True)
class CountingOptions(Options):
    samples: int = 10


class Counting(Method):
    """Records the sizes of the batches it was given."""

    name = "counting"
    precomputed_from = ("samples",)
    made: ClassVar[list[int]] = []

    def precompute(self, beforehand):
        self.made.append(self.options.samples)
        batches = list(beforehand.batches("forget", self.options.samples))
        return {"sizes": torch.tensor([len(batch) for batch in batches])}

    def start(self, precomputed, parameters, seed=0):
        self.started = precomputed
        assert len(parameters) > 10


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path_factory.mktemp("cache")))
    Counting.made.clear()


def prepared(monkeypatch, output, samples=10, method=Counting, seed=0):
    monkeypatch.setitem(METHODS, "counting", method)
    settings = dataclasses.replace(config(seed=seed), method=CountingOptions("counting", samples))
    accelerator = make_accelerator(RuntimeConfig(device="cpu"))
    made = prepare(settings, make_model(), make_split(), [1], accelerator, output)
    assert made.task.forget == [1]
    assert made.task.null_label == 12
    return made.started


@pytest.mark.parametrize("samples", [10, 64, 65, 128, 1000])
def test_what_is_computed_beforehand_sees_at_least_the_samples_asked_for(monkeypatch, tmp_path, samples):
    sizes = prepared(monkeypatch, tmp_path, samples)["sizes"]
    assert samples <= sizes.sum() < samples + 64
    assert len(set(sizes.tolist())) == 1


def test_what_was_computed_beforehand_is_kept(monkeypatch, tmp_path):
    """By whatever run that differs in nothing that matters to it, and in each run's own folder."""
    for run_folder in ("a", "b"):
        assert prepared(monkeypatch, tmp_path / run_folder)["sizes"].tolist() == [10]
        assert len(list((tmp_path / run_folder / "precomputed").iterdir())) == 1
    assert Counting.made == [10]
    prepared(monkeypatch, tmp_path / "c", samples=20)
    prepared(monkeypatch, tmp_path / "d", seed=1)
    assert Counting.made == [10, 20, 10]


def test_a_run_s_own_copy_serves_where_the_cache_was_cleared(monkeypatch, tmp_path):
    prepared(monkeypatch, tmp_path / "a", samples=12)
    shutil.rmtree(cache_folder("precomputed"))
    prepared(monkeypatch, tmp_path / "a", samples=12)
    assert Counting.made.count(12) == 1


def test_the_training_s_key_holds_defaults_and_nothing_that_comes_after():
    def key(**sections):
        return training_key(resolve(RunConfig(["1"]), sections))

    assert key() == key(sample={"per_class": 7}, score={"bootstrap": 0}, runtime={"threads": 1})
    assert key() != key(unlearn={"label_dropout": 0.2})
    assert key() != key(seed=1)


def test_what_is_not_finite_is_not_kept(monkeypatch, tmp_path):
    class Bad(Counting):
        def precompute(self, beforehand):
            return {**super().precompute(beforehand), "bad": torch.tensor([1.0, float("nan")])}

    for _ in range(2):
        with pytest.raises(BadNumberError, match=r"counting computes beforehand is not finite \(bad\)"):
            prepared(monkeypatch, tmp_path, samples=30, method=Bad)
    assert list(tmp_path.iterdir()) == []


def test_an_inherited_computation_is_made_too(monkeypatch, tmp_path):
    class Child(Counting):
        pass

    assert prepared(monkeypatch, tmp_path, method=Child)["sizes"].tolist() == [10]


def test_a_method_that_needs_nothing_beforehand_writes_nothing(monkeypatch, tmp_path):
    class Plain(Counting):
        precompute = Method.precompute

    assert prepared(monkeypatch, tmp_path, method=Plain) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_is_claimed_once_and_again_by_the_same_run(tmp_path):
    output = tmp_path / "new" / "run"
    check_folder(output, config())
    assert not output.exists()
    claim_folder(output, config(), 0)
    held = yaml.safe_load((output / "config.yaml").read_text())
    assert held == as_mapping(config())
    check_folder(output, config({"runtime": {"threads": 1}}))
    for other, key in ((config(seed=1), "seed"), (config({"unlearn": {"rounds": 3}}), "unlearn.rounds")):
        with pytest.raises(UserError, match=rf"differs in {key}; give another --output"):
            check_folder(output, other)


def test_folders_that_cannot_be_a_run_s_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="is there already and holds no run"):
            check_folder(output, config())
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", config())
    with pytest.raises(UserError, match="cannot write the output folder"):
        claim_folder(tmp_path / "file" / "run", config(), 0)


def test_too_little_space_is_said_in_time(tmp_path):
    with pytest.raises(UserError, match=r"MiB free and the run needs about 1073741824; make space"):
        claim_folder(tmp_path / "run", config(), 1 << 50)


@pytest.mark.parametrize("text", ["a: [1", "just text"])
def test_a_damaged_config_in_a_run_folder_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        check_folder(tmp_path, config())


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
    stage = preflight(config(), ready)
    assert len(stage.images) == 9
    assert stage.images.names == ready.labels
    assert stage.instrument.classes == [0, 1, 2]
    assert stage.why == ""


def test_a_missing_classifier_is_refused_or_noted(ready, tmp_path):
    (tmp_path / "pack" / "classifier" / "config.json").unlink()
    with pytest.raises(UserError, match="no classifier at"):
        preflight(config(), ready)
    stage = preflight(config({"score": {"allow_missing": True}}), ready)
    assert stage.instrument is None
    assert "no classifier at" in stage.why


def test_a_missing_extractor_costs_the_distance_alone(ready, tmp_path):
    asked = {"extractor": "inception-v3-compat", "extractor_weights": str(tmp_path / "none.pth")}
    with pytest.raises(UserError, match="no Inception weights at"):
        preflight(config({"score": asked}), ready)
    stage = preflight(config({"score": {**asked, "allow_missing": True}}), ready)
    assert stage.instrument is not None
    assert not stage.distance
    assert "no Inception weights at" in stage.why
    side = {"batch_size": 2}
    request = RunConfig(
        ["1"], model=str(tmp_path / "pack"), preset="digits/sfron-dual", output=str(tmp_path / "run"),
        method={"fisher_samples": 2}, unlearn={"rounds": 1, "finish": 0, "forget": side, "retain": side},
        sample={"per_class": 2, "steps": 2}, score={**asked, "allow_missing": True},
    )  # fmt: skip
    results = run(request)
    for row in results["models"].values():
        assert 0 <= row["fa"] <= 1
        assert row["fid"] is None
        assert "fid" not in row["metrics"]
        assert "no Inception weights at" in row["why"]
    assert results["protocol"]["classifier"]
    assert results["protocol"]["extractor"] is results["protocol"]["reference_count"] is None


def test_a_classifier_of_imagenet_does_not_judge_other_classes(ready):
    with pytest.raises(
        UserError, match=r"score\.classifier=resnet34 knows ImageNet's classes, and the model draws others"
    ):
        preflight(config({"score": {"classifier": "resnet34"}}), ready)


def test_fewer_retained_images_and_classes_are_drawn_where_asked(ready):
    sample = {"retain_total": 5, "retain_classes": ["2"], "per_class": 3}
    stage = preflight(config({"sample": sample, "score": {"reference_images": 2}}), ready)
    assert stage.counts == {1: 3, 2: 3}
    assert stage.images.labels[stage.reference_rows].tolist() == [2, 2]


def test_the_data_is_the_config_s_or_the_pack_s(ready):
    assert data_source(config(data="elsewhere"), ready) == "elsewhere"
    assert data_source(config(), ready) == ready.pack["data"]["source"]
    with pytest.raises(UserError, match="no data; give --data"):
        data_source(config(), make_model())


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
    copy_samples(tmp_path / "a", tmp_path / "b", {0: 1, 2: 2})
    assert len(list((tmp_path / "b").rglob("*.png"))) == 3
    first, second = (image_path(tmp_path / side, 2, 1).read_bytes() for side in "ab")
    assert first == second


@pytest.fixture
def plain(tmp_path):
    """A function that runs in this process on a diffusers folder with data beside it: the folder of the run."""
    save_model(make_model(label_slots=3), tmp_path / "plain")
    for label in range(3):
        for number in range(2):
            write_image(tmp_path / "data" / f"name {label}" / f"{number}.png", np.full((16, 16, 3), 80 * label))

    def start(name, rounds=1, **runtime):
        request = RunConfig(
            ["1"], model=str(tmp_path / "plain"), data=str(tmp_path / "data"), preset="digits/sfron-dual",
            output=str(tmp_path / name), method={"fisher_samples": 2}, runtime={"device": "cpu", **runtime},
            unlearn={"rounds": rounds, "finish": 0, "forget": {"batch_size": 2}, "retain": {"batch_size": 2}},
            sample={"per_class": 2, "steps": 2}, score={"allow_missing": True},
        )  # fmt: skip
        assert run(request)["complete"]
        return tmp_path / name

    return start


def test_a_run_on_a_plain_diffusers_folder_makes_a_pack_that_loads(plain):
    assert load_model(str(plain("run") / "model")).labels == make_model().labels


def images_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_a_run_draws_both_models_in_its_precision_and_the_next_run_in_another(plain):
    """No step is taken, so original and erased are one model."""
    drawn = {}
    for precision in ("fp32", "bf16", "auto"):
        samples = plain(precision, rounds=0, precision=precision) / "samples"
        drawn[precision] = images_of(samples / "original")
        assert len(drawn[precision]) == 6
        assert images_of(samples / "erased") == drawn[precision]
    assert drawn["fp32"] != drawn["bf16"]
    assert drawn["auto"] == drawn["fp32"]  # on a CPU


def test_what_is_kept_in_the_cache_is_kept_for_its_precision(plain):
    """The key of the Fisher diagonals is in their name."""
    names = {p: [path.name for path in (plain(p, precision=p) / "precomputed").iterdir()] for p in ("fp32", "bf16")}
    assert len({*names["fp32"], *names["bf16"]}) == 2


def test_a_run_in_mixed_precision_saves_a_model_that_is_out_of_it_again(plain, monkeypatch):
    saved = []
    monkeypatch.setattr("erase.unlearning.save_model", lambda model, folder: saved.append(model))
    plain("bf16", rounds=0, precision="bf16")
    assert "forward" not in vars(saved[0].transformer)


def test_mixed_precision_of_a_prepared_model_can_be_undone():
    model, batch = make_model(), make_batch(4)
    before = model.transformer(batch.x0, timestep=batch.t, class_labels=batch.labels).sample
    module = make_accelerator(RuntimeConfig(device="cpu", precision="bf16")).prepare_model(model.transformer)
    during = module(batch.x0, timestep=batch.t, class_labels=batch.labels).sample
    restore_forward(model.transformer)
    after = model.transformer(batch.x0, timestep=batch.t, class_labels=batch.labels).sample
    assert torch.equal(after, before)
    assert not torch.equal(during, before)
