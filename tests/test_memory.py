"""The prediction against what is really kept."""

import pytest
import torch

from erase.config import RunConfig
from erase.diffusion import Schedule
from erase.memory import (
    BEFOREHAND,
    activations,
    beforehand,
    device_memory,
    optimizer_moments,
    parameter_count,
    predict,
    told,
)
from erase.presets import resolve
from erase.task import DiffusionTask

from .helpers import make_batch, make_transformer

XL = {
    "num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "patch_size": 2,
    "num_embeds_ada_norm": 1000, "in_channels": 4, "sample_size": 32,
}  # fmt: skip
P = 674_834_720
SIDES = {"batch_size": 16}


def config(method="sfron", optimizer="dual", **more):
    sections = {"unlearn": {"forget": SIDES, "retain": SIDES, **more.pop("unlearn", {})}, **more}
    return resolve(RunConfig(["3"], method=method, optimizer=optimizer, **sections))


def shape_of(transformer):
    return {name: transformer.config[name] for name in XL}


def test_xl_2_has_the_weights_of_the_original():
    assert parameter_count(XL) == P


@pytest.mark.parametrize("layers", [1, 3])
def test_the_count_is_that_of_the_real_module(layers):
    transformer = make_transformer(layers=layers)
    assert parameter_count(shape_of(transformer)) == sum(p.numel() for p in transformer.parameters())


def kept_by(transformer, batch):
    """Bytes that a real forward pass keeps for the backward pass, weights apart."""
    own = {p.untyped_storage().data_ptr() for p in transformer.parameters()}
    kept, held = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        zeros = torch.zeros(batch, dtype=torch.long)
        transformer(torch.randn(batch, 4, 8, 8), timestep=zeros, class_labels=zeros, return_dict=False)
    return sum(kept.values())


@pytest.mark.parametrize("batch", [1, 6])
def test_activations_are_those_of_a_real_pass(batch):
    """Counted on two shallow models without content, and true for a deeper real one."""
    from erase.memory import _recipe

    transformer = make_transformer(layers=4)
    predicted = activations(_recipe(shape_of(transformer)), 4, 8, batch, bf16=False, checkpointing=False)
    assert predicted == pytest.approx(kept_by(transformer, batch), rel=0.02)


def test_xl_2_at_16_and_16_under_dual():
    """2.5 GiB of weights; gradients as much; two optimizers four times; checkpointing saves most activations."""
    plain = predict(XL, config(), bf16=True)
    assert plain["weights"] == plain["gradients"] == 4 * P
    assert plain["optimizer states"] == 16 * P
    assert plain["bf16 copies of the weights"] == 2 * P
    assert plain["total"] == sum(value for name, value in plain.items() if name != "total")
    lean = predict(XL, config(runtime={"checkpointing": True}), bf16=True)
    assert lean["activations"] < plain["activations"] / 5
    assert 4 * 2**30 < plain["activations"] < 10 * 2**30
    assert plain["total"] < 40 * 2**30


def test_what_the_settings_change():
    base = predict(XL, config(), bf16=True)
    assert predict(XL, config(), bf16=False)["activations"] > base["activations"]
    half = predict(XL, config(runtime={"micro_batch": 8}), bf16=True)
    assert half["activations"] == pytest.approx(base["activations"] / 2, rel=0.05)
    for policy, moments in (("shared", 2), ("dual", 4), ("dual_plus", 6)):
        assert optimizer_moments(config(optimizer=policy)) == moments
    assert optimizer_moments(config(optimizer={"policy": "dual", "retain": {"kind": "sgd"}})) == 3
    assert predict(XL, config("surgery"), bf16=True)["gradients"] == 8 * P
    both = predict(XL, config("eupmu", "shared"), bf16=True)  # one pass over both batches
    assert both["activations"] == pytest.approx(2 * base["activations"], rel=0.05)


def test_what_is_computed_beforehand_may_need_more_than_the_training():
    plain, parts = (predict(XL, config(runtime={"micro_batch": size}), bf16=True) for size in (None, 8))
    assert plain["total"] == beforehand(XL, 64, bf16=True) > 30 * 2**30
    assert parts[BEFOREHAND] == 0
    assert BEFOREHAND not in predict(XL, config("ga"), bf16=True)


def held_by_fisher(transformer, batch):
    """Bytes of what autograd and the hooks keep of a batch, weights and results apart."""
    own = {p.untyped_storage().data_ptr() for p in transformer.parameters()}
    kept, held = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    def watch(layer, words, output):
        keep(words[0])
        output.register_hook(lambda gradient: keep(gradient))

    for layer in transformer.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.register_forward_hook(watch)
    task = DiffusionTask(transformer, Schedule(), [0, 1, 2, 3], [0], 12)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        task.loss(make_batch(batch)).sum().backward()
    return sum(kept.values())


def test_the_pass_of_a_fisher_diagonal_keeps_what_was_predicted():
    transformer = make_transformer(layers=4)
    results = 3 * 4 * sum(p.numel() for p in transformer.parameters())
    predicted = beforehand(shape_of(transformer), 6, bf16=False) - results
    assert predicted == pytest.approx(held_by_fisher(transformer, 6), rel=0.15)


def test_too_much_is_a_warning():
    parts = {"weights": 3 << 30, "activations": 0, "total": 3 << 30}
    assert told(parts, None) == told(parts, 4 << 30) == ["weights: 3.00 GiB", "total: 3.00 GiB"]
    assert told(parts, 2 << 30)[-1].startswith("warning: the device has 2.00 GiB; try runtime.checkpointing=true")


def test_a_cpu_has_no_device_memory():
    assert device_memory("cpu") is None
