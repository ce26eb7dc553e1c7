"""The small fit of VAE and classifier."""

import pytest
import torch

from erase import rng
from erase.fit import fit

from .helpers import same, weights_of


class StopError(Exception):
    pass


def train(state, stop=None, key="k", steps=30):
    module = torch.nn.Linear(3, 1)
    with torch.no_grad():
        module.weight.fill_(0.5)
        module.bias.fill_(0.0)
    seen = []

    def loss_at(step):
        if step == stop:
            raise StopError
        seen.append(step)
        x = rng.normal(0, "x", step, (8, 3))
        return (module(x) - x.sum(1, keepdim=True)).square().mean()

    try:
        fit("test", module, loss_at, steps, 0.5, 0.0, state, key, save_every=10)
    except StopError:
        return None, seen
    return module, seen


@pytest.mark.parametrize(("stop", "first"), [(5, 0), (10, 10), (25, 20)])
def test_a_stopped_fit_continues_to_the_same_bits(tmp_path, stop, first):
    whole, _ = train(tmp_path / "whole.safetensors")
    train(tmp_path / "s.safetensors", stop)
    continued, seen = train(tmp_path / "s.safetensors")
    assert seen[0] == first
    assert same(weights_of(continued), weights_of(whole))
    assert not continued.training


def test_a_fit_minimises(tmp_path):
    module, _ = train(tmp_path / "s.safetensors", steps=200)
    assert (module.weight - 1).abs().max() < 0.1


def test_a_fit_of_another_key_starts_again(tmp_path):
    train(tmp_path / "s.safetensors", 15)
    assert train(tmp_path / "s.safetensors", key="other")[1][0] == 0


def test_a_finished_fit_is_not_repeated(tmp_path):
    first, _ = train(tmp_path / "s.safetensors")
    again, seen = train(tmp_path / "s.safetensors")
    assert seen == []
    assert same(weights_of(first), weights_of(again))
