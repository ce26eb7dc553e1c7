"""Per-sample Fisher diagonals and saliency masks.

The diagonal is the mean over samples of the squared per-sample gradient. The square of a batch-mean gradient is another
quantity, one that depends on the batch size. Several processes share the batches; all get the whole sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from . import processes
from .compiled import is_compiled
from .room import Room
from .signals import check

FISHER_BATCH = 64

PerSampleLoss = Callable[[Any], torch.Tensor]
Tensors = dict[str, torch.Tensor]
Made = TypeVar("Made")


def fisher_diagonal(module: nn.Module, loss: PerSampleLoss, batches: Iterable[Any]) -> Tensors:
    """The empirical Fisher diagonal of every trainable parameter, fp32, by its name.

    ``loss`` maps a batch to n per-sample losses that do not interact. One forward and one backward pass a batch: hooks
    keep each layer's input and output gradient, whose products are the per-sample gradients, and no weight gradient is
    ever formed. A layer that is used several times (a shared embedder) has its uses summed before the square. Modules
    that hold parameters of another kind than linear, patch-embedding and label-embedding layers make the whole
    computation fall back to one backward pass a sample.
    """
    if is_compiled(module):
        raise ValueError("hooks do not see inside compiled blocks; take the Fisher diagonal of the plain module")
    layers = {
        name: layer for name, layer in module.named_modules() if any(True for _ in layer.parameters(recurse=False))
    }
    owned = [id(p) for layer in layers.values() for p in layer.parameters(recurse=False)]
    if len(set(owned)) < len(owned) or not all(_supported(layer) for layer in layers.values()):
        return fisher_by_loop(module, loss, batches)
    frozen = [p for p in module.parameters() if not p.requires_grad]
    trained = [p for p in module.parameters() if p.requires_grad]
    total: Tensors = {
        name: torch.zeros_like(p, dtype=torch.float32) for name, p in module.named_parameters() if p.requires_grad
    }
    hooks = {name: _LayerHook(layer) for name, layer in layers.items()}
    count = 0
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        room = Room("the Fisher diagonal")
        for batch in processes.mine(batches):
            check()
            count += _add_squares(total, hooks, loss, batch, room)
    finally:
        for hook in hooks.values():
            hook.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
        for parameter in frozen:
            parameter.requires_grad_(False)
    return _mean(total, count)


def _add_squares(
    total: Tensors,
    hooks: dict[str, _LayerHook],
    loss: PerSampleLoss,
    batch: Any,
    room: Room,
    had: frozenset[str] = frozenset(),
) -> int:
    """Adds a batch's squares to ``total``, of all layers but those in ``had``; its number of samples.

    Where memory runs out, the halves add what the whole has not added.
    """
    if room.size is not None and len(batch) > room.size:
        return sum(_add_squares(total, hooks, loss, part, room, had) for part in batch.parts(room.size))
    added = set(had)
    try:
        return _add_at_once(total, hooks, loss, batch, added)
    except torch.OutOfMemoryError as error:
        room.check(len(batch), error)
    for hook in hooks.values():
        hook.uses.clear()
    room.halve(len(batch))
    return _add_squares(total, hooks, loss, batch, room, frozenset(added))


def _add_at_once(total: Tensors, hooks: dict[str, _LayerHook], loss: PerSampleLoss, batch: Any, added: set[str]) -> int:
    """As :func:`_add_squares`, without parts; ``added`` grows. On its own, so that no frame holds a failed graph."""
    losses = loss(batch)
    losses.sum().backward()
    for name, hook in hooks.items():
        squares = hook.squares(len(losses))
        for field in squares if name not in added else ():
            full = f"{name}.{field}" if name else field
            if full in total:
                total[full] += squares[field]
        added.add(name)
    return len(losses)


def fisher_by_loop(module: nn.Module, loss: PerSampleLoss, batches: Iterable[Any]) -> Tensors:
    """The same by one backward pass a sample: for any module, and the oracle of the hooks."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    count = 0
    for batch in processes.mine(batches):
        for value in loss(batch).unbind():
            gradients = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.float().square()
            count += 1
    return _mean(total, count)


def fisher_summed(module: nn.Module, loss: PerSampleLoss, images: Iterable[Iterable[Any]]) -> Tensors:
    """The diagonal for losses that are sums: the squared gradient of each image's total loss, averaged over images.

    An image is an iterable of batches, the losses of all of which are summed before the square.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    count = 0
    for image in processes.mine(images):
        gradient, _ = _summed_gradient(module, lambda batch: loss(batch).sum() / len(batch), image)
        for name, value in gradient.items():
            total[name] += value.square()
        count += 1
    return _mean(total, count)


def mean_gradient(module: nn.Module, loss: Callable[[Any], torch.Tensor], batches: Iterable[Any]) -> Tensors:
    """Gradient of the mean over all samples; ``loss`` is a batch's mean. fp32."""
    return _mean(*_summed_gradient(module, loss, processes.mine(batches)))


def _summed_gradient(
    module: nn.Module, loss: Callable[[Any], torch.Tensor], batches: Iterable[Any]
) -> tuple[Tensors, int]:
    """Gradient of the sum over all samples of these batches, and their number."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    count, room = 0, Room("the mean gradient")
    for part, gradients in _within(
        room,
        lambda part: torch.autograd.grad(loss(part) * len(part), list(parameters.values()), allow_unused=True),
        batches,
    ):
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.float()
        count += len(part)
    return total, count


def _mean(total: Tensors, count: int) -> Tensors:
    """Sums over ``count`` samples of this process as the mean over all processes' samples."""
    device = next((value.device for value in total.values()), torch.device("cpu"))
    if processes.count() > 1:
        everyone = torch.tensor(float(count), dtype=torch.float64, device=device)
        processes.sum_([*total.values(), everyone])
        count = int(everyone)
    return {name: value / max(1, count) for name, value in total.items()}


@torch.no_grad()
def mean_loss(loss: PerSampleLoss, batches: Iterable[Any]) -> torch.Tensor:
    """Mean of the per-sample losses over all batches, 0-dim."""
    found = [values for _, values in _within(Room("the mean loss"), loss, processes.mine(batches))]
    if processes.count() == 1:
        return torch.cat(found).mean()
    sums = itertools.chain.from_iterable(processes.gather([(v.double().sum().item(), len(v)) for v in found]))
    total, count = (sum(column) for column in zip(*sums, strict=True))
    return torch.tensor(total / count, dtype=torch.float32)


def _within(room: Room, compute: Callable[[Any], Made], batches: Iterable[Any]) -> Iterator[tuple[Any, Made]]:
    """Each batch, or part of one where memory does not hold the whole, with what ``compute`` gives for it."""
    for batch in batches:
        check()
        if room.size is not None and len(batch) > room.size:
            yield from _within(room, compute, batch.parts(room.size))
            continue
        made = None
        try:
            made = compute(batch)
        except torch.OutOfMemoryError as error:
            room.check(len(batch), error)
        if made is not None:
            yield batch, made
        else:
            room.halve(len(batch))
            yield from _within(room, compute, [batch])


def with_masks(parameters: Mapping[str, nn.Parameter], masks: Tensors) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Each parameter and its mask, as :func:`apply_mask` takes them.

    On a GPU bools, a byte a weight; on a CPU numbers, of four bytes, which multiply several times faster to the same
    bits.
    """
    return [
        (p, masks[name].to(p.device, p.dtype if p.device.type == "cpu" else torch.bool))
        for name, p in parameters.items()
    ]


def apply_mask(masked: Iterable[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
    """Multiplies each parameter's ``.grad`` by its mask."""
    pairs = [(parameter.grad, mask) for parameter, mask in masked if parameter.grad is not None]
    if pairs:
        torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])


def top_share_mask(magnitudes: Tensors, share: float) -> Tensors:
    """Bools that select the ``share`` of all weights with the largest magnitudes (non-negative, fp32).

    Exact: round(share x weights) are selected, equal magnitudes in order of name and position. The threshold is found
    by bisection over the bits of a float, so nothing is sorted or put together in memory.
    """
    bits = {name: value.float().contiguous().view(torch.int32) for name, value in magnitudes.items()}
    wanted = round(share * sum(value.numel() for value in bits.values()))
    low, high = -1, 0x7F800000  # the threshold: fewer than `wanted` are above `high`, as many or more above `low`
    while high - low > 1:
        middle = (low + high) // 2
        above = sum(int((value > middle).sum()) for value in bits.values())
        low, high = (middle, high) if above >= wanted else (low, middle)
    masks = {name: value > high for name, value in bits.items()}
    left = wanted - sum(int(mask.sum()) for mask in masks.values())
    for name, value in bits.items():
        ties = (value == high).flatten().nonzero().flatten()[: max(0, left)]
        masks[name].view(-1)[ties] = True
        left -= len(ties)
    return masks


def ratio_mask(forget: Tensors, retain: Tensors, gamma: float) -> Tensors:
    """SFRon's weight saliency S = 1(F_f >= gamma F_r) as bools; weights that neither set uses are not salient."""
    return {name: (forget[name] >= gamma * retain[name]) & (forget[name] > 0) for name in forget}


def selected_share(masks: Tensors) -> float:
    """Share of all weights that the masks select."""
    return sum(int(m.sum()) for m in masks.values()) / max(1, sum(m.numel() for m in masks.values()))


def _supported(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        plain = layer.padding == (0, 0) and layer.groups == 1 and layer.dilation == (1, 1)
        return plain and layer.stride == layer.kernel_size
    return isinstance(layer, nn.Linear | nn.Embedding)


class _LayerHook:
    """Keeps the inputs and output gradients of each use of one layer in the current batch."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.uses: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
        self.handle = layer.register_forward_hook(self._forward)

    def remove(self) -> None:
        self.handle.remove()

    def _forward(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        output = output if output.requires_grad else output.requires_grad_(True)
        gradient: list[torch.Tensor] = []
        output.register_hook(lambda g: gradient.append(g.detach()))
        self.uses.append((inputs[0].detach(), gradient))
        return output

    def squares(self, n: int) -> Tensors:
        """Summed squares over the batch's per-sample gradients; forgets the batch.

        A sample's gradient is a product over its tokens, G^T X. To square each entry it must be formed; a Gram form,
        of the tokens' products with each other, spares that for a norm but here costs (tokens + 1) / 2 times as much.
        It is the cheaper one for a single token alone, where it is a product of squares.
        """
        narrow = [(x if isinstance(self.layer, nn.Embedding) else x.to(g[0].dtype), g[0]) for x, g in self.uses if g]
        uses = [(x, g.float()) for x, g in narrow]  # x as the layer itself saw it under autocast
        exact = len(uses) == 1 and narrow[0][1].dtype == torch.bfloat16
        self.uses.clear()
        if not uses:
            return {}
        if isinstance(self.layer, nn.Embedding):
            return {"weight": _embedding_squares(self.layer, uses)}
        if isinstance(self.layer, nn.Conv2d):
            uses = [_as_patches(self.layer, x, g) for x, g in uses]
        pairs = [(x.float().reshape(n, -1, x.shape[-1]), g.reshape(n, -1, g.shape[-1])) for x, g in uses]
        inputs, outputs = (value.contiguous() for value in pairs[0])
        if len(pairs) > 1:
            inputs, outputs = (torch.cat(values, dim=1) for values in zip(*pairs, strict=True))
        if len(pairs) > 1 and all(torch.equal(x, pairs[0][0]) for x, _ in pairs[1:]):
            inputs, outputs = pairs[0][0], torch.stack([g for _, g in pairs]).sum(0)
        if inputs.shape[1] == 1:  # one token: the square of an outer product is the product of the squares
            squares = outputs[:, 0].square().T @ inputs[:, 0].square()
        else:
            squares = torch.zeros(outputs.shape[-1], inputs.shape[-1], device=inputs.device)
            chunk = max(1, (1 << 24) // squares.numel())
            with _tf32(exact):
                for start in range(0, len(inputs), chunk):
                    part = slice(start, start + chunk)
                    squares += torch.bmm(outputs[part].transpose(1, 2), inputs[part]).square_().sum(0)
        weight: Any = self.layer.weight
        result = {"weight": squares.reshape(weight.shape)}
        if self.layer.bias is not None:
            result["bias"] = outputs.sum(1).square().sum(0)
        return result


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """Products of float32 tensors on a GPU's tensor cores, several times faster. TF32 holds every bf16 value."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _embedding_squares(layer: nn.Embedding, uses: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    squares = torch.zeros_like(layer.weight, dtype=torch.float32)
    labels = uses[0][0]
    if any(not torch.equal(labels, x) for x, _ in uses[1:]):
        raise ValueError("the uses of a shared embedding must look up the same labels")
    gradient = torch.stack([g for _, g in uses]).sum(0)
    return squares.index_add_(0, labels, gradient.square())


def _as_patches(layer: nn.Conv2d, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution whose stride is its kernel is a linear layer over patches."""
    patches = nn.functional.unfold(x.float(), layer.kernel_size, stride=layer.stride)
    return patches.transpose(1, 2), g.flatten(2).transpose(1, 2)
