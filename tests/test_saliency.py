"""The hooks against one backward pass a sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from erase.diffusion import Schedule
from erase.saliency import apply_mask, fisher_by_loop, fisher_diagonal, ratio_mask, selected_share, with_masks
from erase.task import DiffusionTask

from .helpers import make_batch, make_transformer, same, weights_of


def cut(batch, *sizes):
    return [batch.part(chosen) for chosen in torch.arange(len(batch)).split(list(sizes))]


def task_of(module):
    return DiffusionTask(module, Schedule(), [0, 1, 2, 3], [0], 12)


def assert_close(first, second, rtol=2e-4):
    """Close beside each tensor's own scale; a key's bias has no gradient but rounding (softmax does not see it)."""
    assert first.keys() == second.keys()
    floor = 1e-9 * max(value.max().item() for value in second.values())
    for name, wanted in second.items():
        torch.testing.assert_close(first[name], wanted, rtol=rtol, atol=rtol * wanted.max().item() + floor, msg=name)


@pytest.fixture
def loss(tiny):
    return task_of(tiny).loss


def test_hooks_equal_one_backward_pass_a_sample(tiny, loss):
    batches = cut(make_batch(6), 4, 2)
    found, wanted = fisher_diagonal(tiny, loss, batches), fisher_by_loop(tiny, loss, batches)
    assert found.keys() == dict(tiny.named_parameters()).keys()
    assert_close(found, wanted)
    used = {name: value.max().item() for name, value in wanted.items() if not name.endswith("to_k.bias")}
    assert min(used.values()) > 1e-5 * max(used.values())  # nothing is compared as 0 with 0


def test_batch_size_does_not_matter(tiny, loss):
    batch = make_batch(6)
    whole = fisher_diagonal(tiny, loss, [batch])
    for sizes in ((3, 3), (5, 1), (1,) * 6):
        assert_close(fisher_diagonal(tiny, loss, cut(batch, *sizes)), whole)


def test_square_of_the_batch_mean_gradient_is_another_quantity(tiny, loss):
    """The known wrong formula, and it depends on the batch size."""
    batch = make_batch(6)

    def wrong(*sizes):
        total = {name: torch.zeros_like(p) for name, p in tiny.named_parameters()}
        for part in cut(batch, *sizes):
            gradients = torch.autograd.grad(loss(part).mean(), list(tiny.parameters()))
            for name, gradient in zip(total, gradients, strict=True):
                total[name] += gradient.square() * len(part) / 6
        return sum(value.sum().item() for value in total.values())

    right = sum(value.sum().item() for value in fisher_diagonal(tiny, loss, [batch]).values())
    assert wrong(1, 1, 1, 1, 1, 1) == pytest.approx(right, rel=1e-3)
    assert wrong(6) < 0.7 * right
    assert abs(wrong(3, 3) - wrong(6)) > 0.05 * wrong(6)


def test_shared_embedder_counts_once_with_its_uses_summed(tiny, loss):
    found = fisher_diagonal(tiny, loss, [make_batch(4)])
    embedders = [name for name in found if ".emb." in name]
    assert len(embedders) == 5
    assert all(name.startswith("transformer_blocks.0.") for name in embedders)
    # squaring each use before the sum, as an untied copy does, is not the same
    table = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    from erase.model import untied_copy

    apart = untied_copy(tiny)
    each = fisher_diagonal(apart, task_of(apart).loss, [make_batch(4)])
    summed = sum(value for name, value in each.items() if name.endswith("embedding_table.weight"))
    assert not torch.allclose(summed, found[table], rtol=0.05)


def test_labels_that_are_not_drawn_have_no_information(tiny, loss):
    batch = make_batch(6)
    table = next(value for name, value in fisher_diagonal(tiny, loss, [batch]).items() if name.endswith("table.weight"))
    used = set(batch.labels.tolist())
    assert {row for row in range(13) if table[row].any()} == used


def test_nothing_is_left_behind(tiny, loss):
    frozen = tiny.transformer_blocks[1].ff.net[2].weight
    frozen.requires_grad_(False)
    before, states = weights_of(tiny), {name: p.requires_grad for name, p in tiny.named_parameters()}
    found = fisher_diagonal(tiny, loss, [make_batch(2)])
    assert {name: p.requires_grad for name, p in tiny.named_parameters()} == states
    assert "transformer_blocks.1.ff.net.2.weight" not in found
    assert same(weights_of(tiny), before)
    assert all(p.grad is None for p in tiny.parameters())
    assert not any(module._forward_hooks for module in tiny.modules())


def test_requires_grad_is_restored_after_an_error(tiny):
    def broken(batch):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fisher_diagonal(tiny, broken, [make_batch(2)])
    assert all(p.requires_grad for p in tiny.parameters())
    assert not any(module._forward_hooks for module in tiny.modules())


def test_weights_of_another_kind_of_layer_fall_back_to_the_loop():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2))

    def loss(x):
        return module(x).square().sum(1)

    batches = [torch.randn(4, 3), torch.randn(3, 3)]
    found = fisher_diagonal(module, loss, batches)
    assert same(found, fisher_by_loop(module, loss, batches))
    assert found["1.weight"].min() > 0


def test_under_autocast_the_gradient_is_that_of_the_rounded_input():
    """Which is what the layer multiplied; squares of products of bf16 values, summed in fp32."""
    torch.manual_seed(0)
    module, x = nn.Linear(24, 16), torch.randn(5, 7, 24)

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)

    found = fisher_diagonal(module, lambda x: run(x).float().square().flatten(1).sum(1), [x])["weight"]
    gradient = 2 * run(x).detach().double()
    rounded, kept = x.bfloat16().double(), x.double()
    wanted, other = (torch.bmm(gradient.transpose(1, 2), side).square().mean(0).float() for side in (rounded, kept))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.max().item())
    assert not torch.allclose(other, wanted, rtol=1e-4)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_convolution_over_overlapping_patches_is_not_taken_for_a_patch_embedding():
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, 3, padding=1)

    def loss(x):
        return module(x).square().flatten(1).mean(1)

    batches = [torch.randn(3, 2, 6, 6)]
    assert_close(fisher_diagonal(module, loss, batches), fisher_by_loop(module, loss, batches))


def test_a_dilated_convolution():
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, 2, stride=2, dilation=2)

    def loss(x):
        return module(x).square().flatten(1).mean(1)

    batches = [torch.randn(3, 2, 7, 7)]
    assert_close(fisher_diagonal(module, loss, batches), fisher_by_loop(module, loss, batches))


def test_a_weight_shared_by_two_layers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(F.silu(self.first(x)))

    torch.manual_seed(0)
    module = Shared()

    def loss(x):
        return module(x).square().sum(1)

    batches = [torch.randn(5, 4)]
    assert_close(fisher_diagonal(module, loss, batches), fisher_by_loop(module, loss, batches))


def test_a_layer_that_sees_a_flattened_batch():
    torch.manual_seed(0)
    module = nn.Linear(4, 4)

    def loss(x):
        return module(x.flatten(0, 1)).reshape(x.shape).square().flatten(1).sum(1)

    batches = [torch.randn(5, 3, 4)]
    assert_close(fisher_diagonal(module, loss, batches), fisher_by_loop(module, loss, batches))


def test_a_layer_used_twice_on_different_inputs_has_its_gradients_summed_before_the_square():
    torch.manual_seed(0)
    module = nn.Linear(4, 4)

    def loss(x):
        return module(F.silu(module(x))).square().sum(1)

    batches = [torch.randn(5, 4)]
    assert_close(fisher_diagonal(module, loss, batches), fisher_by_loop(module, loss, batches))


def test_deeper_model_of_other_labels():
    module = make_transformer(label_slots=3, layers=3, seed=4)
    batch = make_batch(3, seed=9, label_slots=3)
    loss = task_of(module).loss
    assert_close(fisher_diagonal(module, loss, [batch]), fisher_by_loop(module, loss, [batch]))


def test_mask_keeps_what_matters_more_to_the_forget_set():
    forget = {"w": torch.tensor([2.0, 1.0, 1.0, 0.0, 0.0, 3.0])}
    retain = {"w": torch.tensor([1.0, 1.0, 2.0, 0.0, 1.0, 0.0])}
    assert ratio_mask(forget, retain, 1.0)["w"].tolist() == [True, True, False, False, False, True]
    assert ratio_mask(forget, retain, 2.0)["w"].tolist() == [True, False, False, False, False, True]
    assert ratio_mask(forget, retain, 0.0)["w"].tolist() == [True, True, True, False, False, True]


def test_selected_share_counts_weights_not_tensors():
    masks = {"a": torch.tensor([True, False, False]), "b": torch.tensor([True])}
    assert selected_share(masks) == 0.5


def test_a_mask_of_numbers_multiplies_to_the_bits_of_bools():
    weight = torch.nn.Parameter(torch.zeros(1000))
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    gradient[:2] = torch.tensor([-0.0, float("inf")])
    mask = torch.arange(1000) % 3 != 0
    mask[:2] = True
    weight.grad = gradient.clone()
    pairs = with_masks({"w": weight}, {"w": mask})
    apply_mask(pairs)
    assert torch.equal(weight.grad.view(torch.int32), (gradient * mask).view(torch.int32))
    assert pairs[0][1].dtype == torch.float32
