"""Random label and SalUn: which label, which target, which weights."""

import pytest
import torch

from erase.diffusion import Schedule
from erase.methods import METHODS
from erase.methods.base import Beforehand
from erase.saliency import fisher_by_loop, mean_gradient, top_share_mask
from erase.task import DiffusionTask

from .helpers import make_batch, make_transformer

NULL = 12


def make(name, forget=(1,), classes=(0, 1, 2, 5), module=None, **options):
    task = DiffusionTask(module or make_transformer(), Schedule(), classes, forget, NULL)
    return METHODS[name](METHODS[name].Options(name, **options), task)


def batch_of(*labels, draws=None):
    batch = make_batch(len(labels))
    batch.labels = torch.tensor(labels)
    batch.draws = batch.draws if draws is None else torch.tensor(draws, dtype=torch.float64)
    return batch


def test_the_next_class_is_a_retained_one_around_the_end():
    task = make("salun", forget=(1, 2, 5)).task
    assert task.next_class(torch.tensor([1, 2, 5, NULL])).tolist() == [0, 0, 0, NULL]
    task = make("salun", forget=(1, 5)).task
    assert task.next_class(torch.tensor([1, 5, 0])).tolist() == [2, 0, 2]


def test_a_random_class_is_any_retained_one_and_never_null_or_forgotten():
    method = make("random_label")
    draws = ((torch.arange(30) + 0.5) / 30).tolist()
    chosen = method.other(batch_of(*[1] * 30, draws=draws)).tolist()
    assert set(chosen) == {0, 2, 5}
    assert [chosen.count(c) for c in (0, 2, 5)] == [10, 10, 10]


def prediction(module, batch, labels):
    xt = Schedule().add_noise(batch.x0, batch.noise, batch.t)
    return module(xt, timestep=batch.t, class_labels=labels, return_dict=False)[0][:, :4]


@pytest.mark.parametrize("name", ["salun", "random_label"])
def test_distillation_is_the_mean_squared_distance_to_the_other_labels_prediction(name):
    method = make(name, form="distill")
    batch = batch_of(1, 1, 1, draws=[0.1, 0.5, 0.9])
    other = torch.tensor([2, 2, 2] if name == "salun" else [0, 2, 5])
    module = method.task.module
    wanted = (prediction(module, batch, batch.labels) - prediction(module, batch, other)).square().mean()
    assert method.loss("forget", batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_no_gradient_goes_through_the_distillation_target():
    method = make("salun", form="distill")
    method.loss("forget", batch_of(1, 1)).backward()
    table = method.task.module.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight.grad
    assert table[1].abs().sum() > 0
    assert table[2].abs().sum() == 0


def test_relabelling_trains_the_other_label_and_leaves_the_forgotten_row_alone():
    """What the published DiT code does, and why the class stays."""
    method, batch = make("salun", form="relabel"), batch_of(1, 1)
    loss = method.loss("forget", batch)
    assert loss.item() == pytest.approx(method.task.loss(batch_of(2, 2)).mean().item())
    loss.backward()
    table = method.task.module.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight.grad
    assert table[2].abs().sum() > 0
    assert table[1].abs().sum() == 0


@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 1.0])
def test_the_mask_selects_its_share_exactly_and_the_largest(share):
    generator = torch.Generator().manual_seed(0)
    values = {"a": torch.rand(40, 25, generator=generator) ** 8, "b": torch.rand(333, generator=generator) * 1e-20}
    masks = top_share_mask(values, share)
    assert sum(int(m.sum()) for m in masks.values()) == round(share * 1333)
    inside = torch.cat([values[k][masks[k]] for k in values])
    outside = torch.cat([values[k][~masks[k]] for k in values])
    if len(inside) and len(outside):
        assert inside.min() >= outside.max()


def test_equal_magnitudes_are_taken_in_order_so_the_share_stays_exact():
    masks = top_share_mask({"a": torch.tensor([1.0, 2.0, 1.0, 1.0]), "b": torch.zeros(4)}, 3 / 8)
    assert masks["a"].tolist() == [True, True, True, False]
    assert not masks["b"].any()
    assert top_share_mask({"a": torch.zeros(4)}, 0.5)["a"].tolist() == [True, True, False, False]


def test_saliency_is_the_gradient_of_the_forget_loss_over_all_batches():
    """The sum of signed gradients, not of the batches' magnitudes; whatever the batch sizes."""
    method = make("salun", saliency_samples=6, share=0.3)
    module, batch = method.task.module, batch_of(1, 1, 1, 1, 1, 1)
    parts = [batch.part(slice(0, 2)), batch.part(slice(2, 6))]
    whole = dict(zip(dict(module.named_parameters()), torch.autograd.grad(
        method.loss("forget", batch), list(module.parameters()), allow_unused=True), strict=True))  # fmt: skip
    summed = mean_gradient(module, lambda part: method.loss("forget", part), parts)
    for name, value in summed.items():
        expected = torch.zeros_like(value) if whole[name] is None else whole[name]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-7)
    masks = method.precompute(Beforehand(module, lambda side, n: parts))
    total = sum(p.numel() for p in module.parameters())
    assert sum(int(m.sum()) for m in masks.values()) == round(0.3 * total)


@pytest.mark.parametrize("form", ["distill", "relabel"])
def test_saliency_may_be_of_the_noise_error_or_the_fisher_diagonal_whatever_the_form(form):
    made = {}
    batch = batch_of(1, 1, 1, 1)
    for saliency in ("forget", "denoise", "fisher"):
        method = make("salun", form=form, saliency=saliency, share=0.3)
        module = method.task.module
        made[saliency] = method.precompute(Beforehand(module, lambda side, n: [batch.part(slice(0, 2)), batch]))
    seen = torch.tensor([0, 1, 0, 1, 2, 3])  # the two batches as one
    whole, task = batch.part(seen), method.task
    error = (task.predict(whole)[:, : whole.x0.shape[1]] - whole.noise).square().mean()
    gradients = torch.autograd.grad(error, list(module.parameters()), allow_unused=True)
    names = list(dict(module.named_parameters()))
    size = {n: torch.zeros_like(p) if g is None else g.abs() for n, p, g in zip(names, module.parameters(), gradients,
                                                                               strict=True)}  # fmt: skip
    squares = fisher_by_loop(module, task.loss, [whole])
    for saliency, ranked in (("denoise", size), ("fisher", squares)):
        wanted = top_share_mask(ranked, 0.3)
        off = sum(int((made[saliency][n] ^ wanted[n]).sum()) for n in names)
        assert off <= 4, saliency  # of thousands: two that change places by rounding
    different = sum(int((made["denoise"][n] ^ made["fisher"][n]).sum()) for n in names)
    assert different > 100
    assert sum(int((made["denoise"][n] ^ made["forget"][n]).sum()) for n in names) > 100


@pytest.mark.parametrize("mask_retain", [True, False])
def test_the_mask_holds_on_both_sides_unless_asked_otherwise(mask_retain):
    method = make("salun", mask_retain=mask_retain)
    weight = torch.nn.Parameter(torch.zeros(2))
    method.start({"w": torch.tensor([True, False])}, {"w": weight})
    for objective, wanted in (("forget", [3.0, 0.0]), ("retain", [3.0, 0.0 if mask_retain else 3.0])):
        weight.grad = torch.full((2,), 3.0)
        method.edit_gradients(objective)
        assert weight.grad.tolist() == wanted
