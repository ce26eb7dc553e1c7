"""What a method may ask of diffusion."""

import pytest
import torch

from erase.diffusion import Schedule, dit_loss
from erase.task import DiffusionTask

from .helpers import make_batch


@pytest.fixture
def task(tiny):
    return DiffusionTask(tiny, Schedule(), [0, 1, 2, 3], [0], 12)


def test_the_loss_is_the_dit_loss_of_the_noised_batch(task):
    batch = make_batch(5)
    xt = task.schedule.add_noise(batch.x0, batch.noise, batch.t)
    with torch.no_grad():
        output = task.module(xt, timestep=batch.t, class_labels=batch.labels, return_dict=False)[0]
        assert torch.equal(task.predict(batch), output)
        wanted = dit_loss(task.schedule, output, batch.x0, xt, batch.noise, batch.t)
        torch.testing.assert_close(task.loss(batch), wanted)
        mse = (output[:, :4] - batch.noise).square().mean((1, 2, 3))
        torch.testing.assert_close(task.mse(batch), mse)
    assert (wanted > mse).all()


def test_other_labels_give_another_prediction(task):
    batch = make_batch(5)
    with torch.no_grad():
        other = task.predict(batch, torch.full((5,), 12))
        assert not torch.allclose(other, task.predict(batch), atol=1e-4)
        assert torch.equal(task.predict(batch, batch.labels), task.predict(batch))


def test_samples_do_not_interact(task):
    """The Fisher diagonal relies on it."""
    losses = task.loss(make_batch(4))
    with torch.no_grad():
        alone = task.loss(make_batch(4))[:1]
    torch.testing.assert_close(losses[:1].detach(), alone)
    batch = make_batch(4)
    batch.x0 = batch.x0.requires_grad_(True)
    task.loss(batch)[0].backward()
    assert torch.count_nonzero(batch.x0.grad[1:]) == 0
    assert torch.count_nonzero(batch.x0.grad[0]) > 0


def test_the_class_that_follows_is_a_retained_one_and_null_stays(tiny):
    task = DiffusionTask(tiny, Schedule(), [1, 3, 4, 8], [3, 8], 12)
    assert task.next_class(torch.tensor([3, 8, 1, 4, 12, 3])).tolist() == [4, 1, 4, 1, 12, 4]


def test_the_distance_reaches_every_weight_in_bf16_too(task):
    """Casts of weights that a pass without gradient leaves behind would cut the other pass off."""
    batch, weights = make_batch(5), [p for p in task.module.parameters() if p.dim() > 1]
    with torch.autocast("cpu", torch.bfloat16):
        distance = task.distance(batch, torch.full((5,), 12))
    gradients = torch.autograd.grad(distance.sum(), weights)
    assert all(gradient.any() for gradient in gradients)
    with torch.no_grad():
        wanted = (task.predict(batch) - task.predict(batch, torch.full((5,), 12)))[:, :4].square().mean((1, 2, 3))
    torch.testing.assert_close(distance.detach(), wanted, rtol=0.1, atol=1e-3)
