"""Every method under every policy that it can run under, through the flow of a run, on a tiny model."""

import json

import pytest
import torch

from erase import steplog
from erase import trainer as trainer_module
from erase.beforehand import prepare
from erase.config import RunConfig, RuntimeConfig
from erase.data.latents import fixed_latents
from erase.data.split import Split
from erase.methods import METHODS, refusal
from erase.optim import POLICIES
from erase.presets import resolve
from erase.saliency import fisher_diagonal
from erase.trainer import make_accelerator
from erase.unlearning import unlearn

from .helpers import CHANNELS, LATENT, make_model, same, weights_of


class StopError(Exception):
    pass


PAIRS = [(name, policy) for name in METHODS for policy in POLICIES if refusal(METHODS[name], policy) is None]
FORGET = [1, 2]
STOPPED = [("eupmu", "shared"), ("ltu", "dual_plus"), ("sa", "dual"), ("salun", "shared")]
SIDE = {"batch_size": 8, "lr": 1e-3, "lr_schedule": "constant", "warmup": 0}


def make_split(n=60):
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(n).remainder(5).numpy()
    whole = fixed_latents(torch.randn(n, CHANNELS, LATENT, LATENT, generator=generator), labels, 1.0, spread=0.1)
    gone = (labels == 1) | (labels == 2)
    return Split({"forget": whole.part(gone), "retain": whole.part(~gone)}, 12)


def go(folder, name, policy, spy=None, options=None, micro_batch=None, checkpointing=False, compile=False, **plan):
    """One short run that forgets two classes; its weights before and after."""
    folder.mkdir(exist_ok=True)
    rounds, finish = (0, 4) if name == "retrain" else (3, 1)
    settings = {
        "unlearn": {"rounds": rounds, "finish": finish, "label_dropout": 0.5, "forget": SIDE, "retain": SIDE, **plan},
        "sample": {"steps": 2, "block": 10},
        "method": {**METHODS[name].quick, **(options or {})},
        "runtime": {"micro_batch": micro_batch, "checkpointing": checkpointing, "compile": compile},
    }
    config = resolve(RunConfig(["1", "2"], method=name, optimizer=policy), settings)
    model = make_model(classes=range(5))
    before = weights_of(model.transformer)
    accelerator = make_accelerator(RuntimeConfig(device="cpu"))
    method = prepare(config, model, make_split(), FORGET, accelerator, folder)
    if spy is not None:
        spy(method, model.transformer)
    unlearn(config, model, method, make_split(), accelerator, folder, "key")
    return before, weights_of(model.transformer)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "policy"), PAIRS)
def test_it_runs_moves_the_weights_and_says_what_it_did(tmp_path, name, policy):
    before, after = go(tmp_path, name, policy)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert sum(not torch.equal(before[key], after[key]) for key in before) > len(before) / 2
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = [row["objective"] for row in rows]
    if METHODS[name].objectives == ("retain",):
        assert seen == ["retain"] * 4
    elif METHODS[name].updates[0] == "joint":
        assert seen == ["joint"] * 3 + ["retain"]
    else:
        assert seen == ["forget", "retain"] * 3 + ["retain"]


FORGETFUL = [(name, {}) for name in METHODS if "forget" in METHODS[name].objectives]
FORMS = [
    ("random_label", {"form": "relabel"}), ("salun", {"form": "relabel"}), ("sa", {"surrogate": "class"}),
    ("ltu", {"order": 2}), ("sa", {"replay": "real"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), FORGETFUL + FORMS)
def test_no_forget_pass_touches_the_null_label_and_both_classes_are_forgotten(tmp_path, name, options):
    """Guidance takes the null branch for every class. Half of the retain labels are dropped here, no others."""
    seen = {"forget": [], "retain": []}

    def spy(method, transformer):
        values, side = method.values, []

        def watched(objective, batch):
            side.append(objective)
            try:
                return values(objective, batch)
            finally:
                side.pop()

        def look(module, words, named):
            seen[side[-1] if side else "retain"].append(named["class_labels"].clone())

        method.values = watched
        transformer.register_forward_pre_hook(look, with_kwargs=True)

    go(tmp_path, name, "shared", spy, options)
    forget, retain = (torch.cat(seen[side]) for side in ("forget", "retain"))
    assert 12 not in forget
    assert 12 in retain
    if options.get("form") == "relabel":  # the images are the forgotten ones, their label is not
        assert set(forget.tolist()) <= {0, 3, 4}
    else:
        assert {1, 2} <= set(forget.tolist())
    assert not {1, 2} & set(retain.tolist())


def test_sas_fisher_and_replay_are_made_once_for_a_model_and_a_mask_for_each_class(tmp_path, monkeypatch):
    made = []
    for name in ("sa", "salun"):
        own = METHODS[name].precompute
        monkeypatch.setattr(
            METHODS[name], "precompute", lambda self, words, own=own, name=name: made.append(name) or own(self, words)
        )
    for forget, seed in (([1], 0), ([2], 0), ([1, 2], 3)):
        for name in ("sa", "salun"):
            settings = {"method": METHODS[name].quick, "sample": {"steps": 2, "block": 10}}
            config = resolve(RunConfig([str(label) for label in forget], method=name, seed=seed), settings)
            folder = tmp_path / f"{name}-{forget}-{seed}"
            folder.mkdir()
            accelerator = make_accelerator(RuntimeConfig(device="cpu"))
            prepare(config, make_model(classes=range(5)), make_split(), forget, accelerator, folder)
    assert (made.count("sa"), made.count("salun")) == (1, 3)


@pytest.mark.parametrize(("name", "policy"), STOPPED)
def test_a_stopped_run_ends_as_an_undisturbed_one(tmp_path, monkeypatch, name, policy):
    """EUPMU's weight is part of the state."""
    monkeypatch.setattr(steplog, "FLUSH_EVERY", 1)
    _, whole = go_saving(tmp_path / "whole", name, policy)
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("step", "joint_step"):
            original = getattr(trainer_module.Trainer, kind)

            def stopping(self, *words, original=original):
                if len(taken) == 2:
                    raise StopError
                taken.append(1)
                return original(self, *words)

            patch.setattr(trainer_module.Trainer, kind, stopping)
        with pytest.raises(StopError):
            go_saving(tmp_path / "stopped", name, policy)
    _, continued = go_saving(tmp_path / "stopped", name, policy)
    assert same(whole, continued)
    metrics = [(tmp_path / side / "metrics.jsonl").read_text() for side in ("whole", "stopped")]
    assert metrics[0] == metrics[1]


def go_saving(folder, name, policy):
    """As :func:`go`, saving its state after every step."""
    real = trainer_module.Trainer.__init__

    def saving(self, *words, **named):
        real(self, *words, **named)
        self.save_every = 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "__init__", saving)
        return go(folder, name, policy)


MICRO = [
    ("sfron", "dual", {}),
    ("salun", "shared", {}),
    ("eupmu", "shared", {}),
    ("surgery", "dual", {}),
    ("ltu", "shared", {}),
    ("sa", "dual", {}),
    ("ga", "dual", {"ascent": "adaga"}),
]


@pytest.mark.parametrize(("name", "policy", "options"), MICRO)
def test_micro_batches_change_nothing_but_rounding(tmp_path, name, policy, options):
    """Also where the loss is no mean over samples: adaga's weights, and EUPMU's logarithms."""
    before, whole = go(tmp_path / "whole", name, policy, options=options)
    calls = []

    def spy(method, transformer):
        transformer.register_forward_pre_hook(lambda m, words, named: calls.append(len(words[0])), with_kwargs=True)

    _, parts = go(tmp_path / "parts", name, policy, spy, options=options, micro_batch=3)
    assert max(calls) <= 3
    moved = sum((whole[key] - before[key]).square().sum() for key in whole) ** 0.5
    apart = sum((whole[key] - parts[key]).square().sum() for key in whole) ** 0.5
    assert apart < 2e-3 * moved  # Adam magnifies the rounding of gradients near zero
    names = [json.loads((tmp_path / side / "metrics.jsonl").read_text().splitlines()[0]) for side in ("whole", "parts")]
    assert names[0].keys() == names[1].keys()
    for key, value in names[0].items():
        assert names[1][key] == (pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value)


def test_what_is_computed_beforehand_keeps_to_micro_batches_too(tmp_path, monkeypatch):
    """Else it would be what does not fit; the cache holds each apart, for they are rounded differently."""
    seen = []

    def watched(module, loss, batches):
        seen.append([])
        return fisher_diagonal(module, lambda batch: seen[-1].append(len(batch)) or loss(batch), batches)

    monkeypatch.setattr("erase.methods.sfron.fisher_diagonal", watched)
    for micro_batch in (None, 100, 5, 5):
        go(tmp_path / str(len(seen)), "sfron", "dual", micro_batch=micro_batch)
    assert seen == [[16], [16], [5, 5, 5, 1], [5, 5, 5, 1]]  # forget and retain; made twice, read twice


def test_the_mean_of_parts_means_would_be_another_loss(tmp_path):
    """The negative control: adaga weighted within each part."""
    _, whole = go(tmp_path / "whole", "ga", "dual", options={"ascent": "adaga"})
    METHODS["ga"].additive, kept = (lambda self, objective: True), METHODS["ga"].additive
    try:
        _, parts = go(tmp_path / "parts", "ga", "dual", options={"ascent": "adaga"}, micro_batch=3)
    finally:
        METHODS["ga"].additive = kept
    assert max((whole[key] - parts[key]).abs().max() for key in whole) > 1e-4


def test_checkpointing_changes_nothing(tmp_path):
    _, plain = go(tmp_path / "plain", "salun", "dual")
    _, again = go(tmp_path / "again", "salun", "dual", checkpointing=True)
    assert same(plain, again)


def test_joint_and_alternating_updates_differ(tmp_path):
    _, alternating = go(tmp_path / "a", "salun", "dual")
    _, joint = go(tmp_path / "j", "salun", "dual", update="joint")
    assert not same(alternating, joint)


@pytest.mark.parametrize("name", ["retrain", "finetune"])
def test_no_steps_are_an_empty_list_of_them(tmp_path, name):
    go(tmp_path / "run", name, "shared", rounds=0, finish=0)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_retraining_starts_from_fresh_weights_and_is_kept(tmp_path, monkeypatch):
    before, after = go(tmp_path / "first", "retrain", "shared", average=0.5)
    fresh = weights_of(make_model().transformer)
    moved = max((after[name] - before[name]).abs().max().item() for name in before)
    assert moved > 0.1  # the original's weights are far from any fresh ones
    assert fresh.keys() == after.keys()

    kept = next((tmp_path / "cache" / "weights").glob("*.safetensors"))
    kept.write_bytes(kept.read_bytes()[:100])  # damaged: made anew
    _, mended = go(tmp_path / "mended", "retrain", "shared", average=0.5)
    assert same(after, mended)

    def never(self, title=""):
        raise AssertionError("trained again")

    monkeypatch.setattr(trainer_module.Trainer, "run", never)
    _, again = go(tmp_path / "second", "retrain", "shared", average=0.5)
    assert same(after, again)
    rows = [(tmp_path / folder / "metrics.jsonl").read_text() for folder in ("first", "second")]
    assert rows[0] == rows[1]
    assert rows[0].count("\n") == 4
