"""Memory that runs out: the part is halved, the work repeated, and the result the same to rounding."""

import pytest
import torch

from erase import sampling
from erase.config import SampleConfig
from erase.diffusion import Schedule
from erase.errors import StoppedError
from erase.room import Room
from erase.saliency import fisher_diagonal, mean_gradient, mean_loss
from erase.task import DiffusionTask

from .helpers import make_batch, make_model, make_transformer


class Small:
    """In a module's place: no more than ``room`` samples at once, in the forward pass or (``late``) in the backward."""

    def __init__(self, module, room, late=False):
        self.module, self.room, self.late, self.sizes = module, room, late, []

    def __call__(self, x, **named):
        self.sizes.append(len(x))
        if len(x) > self.room and not self.late:
            raise torch.OutOfMemoryError
        result = self.module(x, **named)[0]
        if len(x) > self.room and result.requires_grad:
            result.register_hook(self._full)
        return (result,)

    def _full(self, gradient):
        raise torch.OutOfMemoryError


def task_of(module, room=None, late=False):
    held = module if room is None else Small(module, room, late)
    return DiffusionTask(held, Schedule(), [0, 1, 2], [0], 12)


def close(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-8)


def test_the_size_is_halved_until_it_fits_and_stays_so(capsys):
    room, tried = Room("training", None, "runtime.micro_batch"), []

    def attempt(size):
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError
        return size

    assert room.fit(20, attempt) == 3
    assert room.fit(20, attempt) == 3
    assert tried == [20, 10, 5, 3, 3]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "training: out of memory with 20 samples at once, 10 from now on (runtime.micro_batch=10 starts so)"
    )
    assert len(said) == 3


def test_a_single_sample_that_does_not_fit_ends_it():
    def never(size):
        raise torch.OutOfMemoryError

    with pytest.raises(StoppedError, match=r"sampling: .* not hold a single sample.*runtime\.precision=bf16"):
        Room("sampling").fit(5, never)


@pytest.mark.parametrize("late", [False, True])
def test_the_fisher_diagonal_counts_every_sample_once(late, capsys):
    module = make_transformer()
    batches = [make_batch(8, seed) for seed in (0, 1)]
    wanted = fisher_diagonal(module, task_of(module).loss, batches)
    task = task_of(module, 3, late)
    close(fisher_diagonal(module, task.loss, batches), wanted)
    assert task.module.sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert capsys.readouterr().err.count("the Fisher diagonal: out of memory") == 2


def test_layers_that_were_added_before_memory_ran_out_are_not_added_again(monkeypatch):
    """It runs out between two layers, when some have added the batch's squares."""
    from erase import saliency

    module, batch = make_transformer(), make_batch(8)
    loss = task_of(module).loss
    wanted = fisher_diagonal(module, loss, [batch])
    squares, calls = saliency._LayerHook.squares, []

    def failing(hook, n):
        calls.append(n)
        if len(calls) == 7:
            raise torch.OutOfMemoryError
        return squares(hook, n)

    monkeypatch.setattr(saliency._LayerHook, "squares", failing)
    close(fisher_diagonal(module, loss, [batch]), wanted)
    assert calls.count(8) == 7
    assert calls.count(4) > 14


def test_mean_gradient_and_mean_loss_too():
    module, batches = make_transformer(), [make_batch(7)]
    task, small = task_of(module), task_of(module, 2)
    close(
        mean_gradient(module, lambda batch: small.loss(batch).mean(), batches),
        mean_gradient(module, lambda batch: task.loss(batch).mean(), batches),
    )
    torch.testing.assert_close(mean_loss(small.loss, batches), mean_loss(task.loss, batches))


@pytest.mark.parametrize("sampler", ["dpm++", "ancestral"])
def test_a_block_keeps_its_randomness_when_it_is_drawn_in_parts(sampler, monkeypatch):
    model = make_model()
    labels, seeds = [0, 1, 2, 0, 1], [5, 6, 7, 8, 9]
    wanted = sampling.sample(model, labels, seeds, steps=3, sampler=sampler)
    drawn, sizes = sampling.sample_latents, []

    def small(model, labels, *rest):
        sizes.append(len(labels))
        if len(labels) > 2:
            raise torch.OutOfMemoryError
        return drawn(model, labels, *rest)

    monkeypatch.setattr(sampling, "sample_latents", small)
    found = sampling.sample(model, labels, seeds, steps=3, sampler=sampler)
    assert sizes == [5, 3, 2, 2, 1]
    assert abs(found.astype(int) - wanted).max() <= 1


def test_decoding_is_cut_too(monkeypatch):
    model = make_model()
    latents = torch.randn(6, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    wanted, decode = sampling.decode(model, latents), model.vae.decode

    def small(part):
        if len(part) > 2:
            raise torch.OutOfMemoryError
        return decode(part)

    monkeypatch.setattr(model.vae, "decode", small)
    assert (sampling.decode(model, latents).int() - wanted.int()).abs().max() <= 1


def test_a_folder_s_blocks_find_the_halving_of_decoding_once(tmp_path, monkeypatch, capsys):
    model = make_model()
    decode = model.vae.decode

    def small(part):
        if len(part) > 2:
            raise torch.OutOfMemoryError
        return decode(part)

    monkeypatch.setattr(model.vae, "decode", small)
    config = SampleConfig(per_class=4, steps=1, block=4)
    sampling.sample_folder(model, tmp_path, config, [0, 1, 2], "sample")
    assert len(list(tmp_path.rglob("*.png"))) == 12
    assert capsys.readouterr().err.count("decoding: out of memory") == 1
