"""Selective amnesia: surrogates, replay, Fisher and the elastic penalty."""

import numpy as np
import pytest
import torch

from erase.data.latents import LatentStream, fixed_latents
from erase.diffusion import Schedule
from erase.methods.base import Beforehand
from erase.methods.sa import Options, SelectiveAmnesia
from erase.saliency import fisher_summed
from erase.task import DiffusionTask

from .helpers import CHANNELS, LATENT, make_batch, make_transformer

FACTOR = 0.5


def make(forget=(1,), **options):
    task = DiffusionTask(make_transformer(layers=1), Schedule(), [0, 1, 2], list(forget), 12)
    return SelectiveAmnesia(Options("sa", **options), task)


def replay(per_class=2):
    generator = torch.Generator().manual_seed(3)
    labels = np.repeat([0, 1, 2], per_class)
    return fixed_latents(torch.randn(len(labels), CHANNELS, LATENT, LATENT, generator=generator), labels, FACTOR)


def stream(images, size, dropout=0.0):
    return LatentStream(images.moments, images.rows, images.labels, 0, "x", size, 12, dropout)


def started(method, part=None):
    def batches(source, samples):
        return [stream(source, samples).batch(0)]

    tensors = method.precompute(Beforehand(method.task.module, batches, replay, part))
    parameters = dict(method.task.module.named_parameters())
    method.start(tensors, parameters)
    return tensors, parameters


QUICK = {"replay_per_class": 2, "fisher_samples": 4, "fisher_images": 1}


def test_the_forgotten_label_is_trained_on_noise_of_unit_variance_and_the_rest_on_replay():
    method = make(forget=(1, 2), surrogates=300, **QUICK)
    tensors, _ = started(method)
    sets = method.training_sets({"forget": replay(), "retain": replay()}, 0)
    noise = stream(sets["forget"], 200).batch(0)
    assert noise.x0.std().item() == pytest.approx(1, abs=0.02)
    assert noise.x0.mean().item() == pytest.approx(0, abs=0.02)
    assert set(noise.labels.tolist()) == {1, 2}
    again = stream(sets["forget"], 200).batch(3)
    assert not torch.equal(noise.x0[:50], again.x0[:50])
    kept = stream(sets["retain"], 2).batch(0)
    assert set(sets["retain"].labels) == {0}
    drawn = tensors["replay/latents"][tensors["replay/labels"] == 0]
    for x in kept.x0:
        assert (drawn - x).abs().amax((1, 2, 3)).min() < 1e-5


def test_every_forgotten_class_has_surrogates_however_few_are_asked_for():
    method = make(forget=(0, 1), surrogates=1, **QUICK)
    started(method)
    sets = method.training_sets({"forget": replay(), "retain": replay()}, 0)
    assert sorted(sets["forget"].labels) == [0, 1]


def test_a_surrogate_class_gives_its_images_the_forgotten_label():
    real = replay(per_class=3)
    real = real.part(real.labels != 2)
    for kind in ("real", "generated"):
        method = make(forget=(2,), surrogate="class", replay=kind, **QUICK)
        tensors, _ = started(method)
        sets = method.training_sets({"forget": real, "retain": real}, 0)
        drawn = tensors["replay/latents"][tensors["replay/labels"] == 0]  # the class after 2, around the end
        wanted = real.moments.mean[real.rows[real.labels == 0]] * FACTOR if kind == "real" else drawn
        batch = stream(sets["forget"], len(wanted)).batch(0)
        assert batch.labels.tolist() == [2] * len(wanted)
        sums = [sorted(x.sum((1, 2, 3)).tolist()) for x in (batch.x0, wanted)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-4)
        assert (sets["retain"] is real) == (kind == "real")


@pytest.mark.parametrize(("present", "stand_in"), [((0, 1), 0), ((1,), 1)])
def test_a_surrogate_class_is_the_next_of_which_there_are_images(present, stand_in):
    method = make(forget=(2,), surrogate="class", replay="real", **QUICK)
    started(method)
    real = replay().part(np.isin(replay().labels, present))
    surrogate = method.training_sets({"forget": real, "retain": real}, 0)["forget"]
    assert surrogate.rows.tolist() == real.rows[real.labels == stand_in].tolist()
    assert surrogate.labels.tolist() == [2, 2]


def test_the_exact_fisher_squares_the_gradient_summed_over_all_timesteps():
    """Against one autograd pass over all 1,000; and the square of single timesteps is another quantity."""
    method = make()
    module, image = method.task.module, make_batch(1)
    parts = list(method.task.over_timesteps(image, chunk=300))
    assert torch.cat([part.t for part in parts]).tolist() == list(range(1000))
    assert not torch.equal(parts[0].noise[0], parts[0].noise[1])
    got = fisher_summed(module, method.task.loss, [parts])
    total = sum(method.task.loss(part).sum() for part in parts)
    expected = torch.autograd.grad(total, list(module.parameters()), allow_unused=True)
    for (name, value), gradient in zip(got.items(), expected, strict=True):
        wanted = torch.zeros_like(value) if gradient is None else gradient.square()
        torch.testing.assert_close(value, wanted, rtol=2e-3, atol=1e-3 * wanted.max().item() + 1e-9, msg=name)
    wrong = fisher_summed(module, method.task.loss, [[part] for part in parts])
    ratio = sum(v.sum() for v in wrong.values()) / sum(v.sum() for v in got.values())
    assert not 0.8 < ratio < 1.2


def test_exact_fisher_through_the_method():
    tensors, parameters = started(make(fisher="exact", **QUICK))
    assert {name for name in tensors if name.startswith("fisher/")} == {f"fisher/{name}" for name in parameters}


def penalty_after(method, parameters, step=0.01):
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(step)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    method.edit_gradients("retain")
    return method.report("retain")["penalty"].item()


def test_the_penalty_and_its_gradient():
    method = make(strength=3.0, **QUICK)
    tensors, parameters = started(method)
    value = penalty_after(method, parameters)
    fisher = sum(tensors[f"fisher/{name}"].double().sum() for name in parameters).item()
    assert value == pytest.approx(3.0 / tensors["level"].item() * fisher * 0.01**2, rel=1e-3)
    for name, parameter in parameters.items():
        wanted = 2 * 3.0 / tensors["level"] * tensors[f"fisher/{name}"] * 0.01
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-2, atol=1e-9)


def test_the_retain_weight_scales_the_penalty_as_it_does_the_loss():
    method = make(**QUICK)
    _, parameters = started(method)
    penalty_after(method, parameters)
    whole = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad.zero_()
    method.edit_gradients("retain", 0.25)
    assert all(torch.equal(parameter.grad, whole[name] / 4) for name, parameter in parameters.items())


def test_the_exact_fisher_is_the_same_in_small_parts():
    whole, parts = make(fisher="exact", **QUICK), make(fisher="exact", **QUICK)
    first, _ = started(whole)
    second, _ = started(parts, part=7)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-9)


def test_forget_gradients_bear_no_penalty():
    method = make(**QUICK)
    _, parameters = started(method)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    method.edit_gradients("forget")
    assert all((parameter.grad == 1).all() for parameter in parameters.values())
    assert method.report("forget") == {}


@pytest.mark.parametrize("factor", [10.0, 0.01])
def test_the_strength_means_the_same_whatever_the_loss_is_multiplied_by(factor):
    """Fisher grows with the square of the factor, the loss level with the factor: the penalty as the loss does."""
    plain, scaled = make(**QUICK), make(**QUICK)
    inner = scaled.task.loss
    scaled.task.loss = lambda batch: factor * inner(batch)
    first, second = (penalty_after(method, started(method)[1]) for method in (plain, scaled))
    assert second == pytest.approx(factor * first, rel=1e-3)
