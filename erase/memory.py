"""What a run will hold in memory, predicted from the model's config: no weights are read and none are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from .config import DitRecipe, OptimizerSide, ResolvedConfig
from .methods import find_method
from .model import new_transformer
from .optim import POLICIES
from .saliency import FISHER_BATCH

FP32, BF16 = 4, 2
BEFOREHAND = "more, while a Fisher diagonal or mask is computed"


def predict(transformer: Mapping[str, Any], config: ResolvedConfig, bf16: bool) -> dict[str, int]:
    """Bytes by purpose, and their "total".

    ``transformer`` is a DiT's config.json. Weights, gradients, optimizers, what the method keeps, and the activations
    of the largest micro-batch. An upper bound: not all are at their largest at once.
    """
    recipe = _recipe(transformer)
    count = parameter_count(transformer)
    plan, runtime = config.unlearn, config.runtime
    method = find_method(config.method.name)
    joint = (plan.update or method.updates[0]) == "joint"
    sizes = [side.batch_size for side in (plan.forget, plan.retain)]
    live = [sum(sizes)] if method.single_backward else sizes
    batch = max(min(size, runtime.micro_batch or size) for size in live)
    latents = int(transformer["in_channels"]), int(transformer["sample_size"])
    gradients = 2 if joint and not method.single_backward else 1
    parts = {
        "weights": FP32 * count,
        "bf16 copies of the weights": BF16 * count if bf16 else 0,
        "gradients": FP32 * count * gradients,
        "optimizer states": FP32 * count * optimizer_moments(config),
        "average of the weights": FP32 * count if plan.average else 0,
        "the method's own": int(FP32 * count * method.memory),
        "activations": activations(recipe, *latents, batch, bf16, runtime.checkpointing),
    }
    if method.precomputed_from:
        before = beforehand(transformer, min(runtime.micro_batch or FISHER_BATCH, FISHER_BATCH), bf16)
        parts[BEFOREHAND] = max(0, before - sum(parts.values()))
    return {**parts, "total": sum(parts.values())}


def beforehand(transformer: Mapping[str, Any], batch: int, bf16: bool) -> int:
    """Bytes while a Fisher diagonal or a mask is computed, at most: weights, two sets of results, a batch's pass.

    The pass keeps each layer's input and output gradient, and checkpointing does not apply to it.
    """
    recipe, size = _recipe(transformer), int(transformer["sample_size"])
    outputs = 9 * recipe.width * (size // recipe.patch) ** 2 * recipe.layers  # queries to output, and the wide layer's
    kept = activations(recipe, int(transformer["in_channels"]), size, batch, bf16, checkpointing=False)
    return 3 * FP32 * parameter_count(transformer) + kept + batch * outputs * (BF16 if bf16 else FP32)


def parameter_count(transformer: Mapping[str, Any]) -> int:
    """Trained weights of a DiT with one embedder for all blocks; two shallow ones tell what a block has."""
    recipe, counts = _recipe(transformer), []
    for depth in (1, 2):
        with torch.device("meta"):
            model = new_transformer(
                replace(recipe, layers=depth), int(transformer["in_channels"]), int(transformer["sample_size"]), seed=0
            )
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    return counts[0] + (recipe.layers - 1) * (counts[1] - counts[0])


def optimizer_moments(config: ResolvedConfig) -> int:
    """Moments a weight."""

    def moments(side: OptimizerSide) -> int:
        return 1 if side.kind == "sgd" else 2

    optimizer = config.optimizer
    if POLICIES[optimizer.policy].one_state:
        return moments(optimizer.retain)
    own = moments(optimizer.forget) + moments(optimizer.retain)
    return own + 2 * (optimizer.policy == "dual_plus")


def activations(recipe: DitRecipe, channels: int, size: int, batch: int, bf16: bool, checkpointing: bool) -> int:
    """Bytes that autograd keeps from one forward pass for its backward pass.

    Two shallow models are run on tensors without content and what they keep is counted: the difference is a block's
    share. With ``checkpointing`` each block keeps its input alone, and one block at a time is recomputed.
    """
    shallow, deeper = (
        _kept(recipe, depth, channels, size, 2, bf16) - _kept(recipe, depth, channels, size, 1, bf16)
        for depth in (1, 2)
    )  # of one sample: the cast weights are kept once, whatever the batch
    block, rest = deeper - shallow, 2 * shallow - deeper
    if not checkpointing:
        return batch * (rest + recipe.layers * block)
    tokens = (size // recipe.patch) ** 2
    return batch * (rest + block + recipe.layers * tokens * recipe.width * FP32)


@cache
def _kept(recipe: DitRecipe, depth: int, channels: int, size: int, batch: int, bf16: bool) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = new_transformer(replace(recipe, layers=depth), channels, size, seed=0)
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
                held.append(tensor)  # a storage that is freed could give its number to another
            return tensor

        held: list[torch.Tensor] = []
        latents, labels = torch.zeros(batch, channels, size, size), torch.zeros(batch, dtype=torch.long)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(latents, timestep=labels, class_labels=labels, return_dict=False)
    return sum(kept.values())


def _recipe(transformer: Mapping[str, Any]) -> DitRecipe:
    heads = int(transformer["num_attention_heads"])
    return DitRecipe(
        layers=int(transformer["num_layers"]),
        width=heads * int(transformer["attention_head_dim"]),
        heads=heads,
        patch=int(transformer["patch_size"]),
        label_slots=int(transformer["num_embeds_ada_norm"]),
    )


def device_memory(device: str) -> int | None:
    """Bytes of the GPU that a run would take, None without one."""
    if device == "cpu" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(torch.device(device if ":" in device else "cuda")).total_memory)


def told(parts: Mapping[str, int], available: int | None) -> list[str]:
    """One line a part, in GiB, and a warning if the whole is more than the device has."""
    lines = [f"{name}: {value / 2**30:.2f} GiB" for name, value in parts.items() if value]
    if available is not None and parts["total"] > available:
        cure = "try runtime.checkpointing=true, runtime.micro_batch=N or smaller batches"
        lines.append(f"warning: the device has {available / 2**30:.2f} GiB; {cure}")
    return lines
