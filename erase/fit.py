"""A small resumable fit for the VAE and the classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from . import processes
from .optim import cosine
from .signals import Interrupted, check
from .state import load_state, save_state
from .steplog import BadNumberError


def fit(
    name: str,
    module: nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    steps: int,
    lr: float,
    weight_decay: float,
    state: Path,
    key: str,
    save_every: int,
) -> None:
    """Minimises ``loss_at(step)`` over ``module`` with AdamW, saving to the folder ``state`` and continuing from it.

    Of several processes the main one does, and the others take its weights. Raises BadNumberError for a loss or
    gradient that is not finite, and Interrupted, the state saved, after a signal.
    """
    processes.on_main(lambda: _fit(name, module, loss_at, steps, lr, weight_decay, state, key, save_every))
    processes.copy_main_(module.parameters())
    module.eval()


def _fit(
    name: str,
    module: nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    steps: int,
    lr: float,
    weight_decay: float,
    state: Path,
    key: str,
    save_every: int,
) -> None:
    optimizer: Any = torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)
    weights = dict(module.named_parameters())
    start = load_state(state, key, weights, {"adamw": optimizer})
    module.train()
    done = start

    def save() -> None:
        save_state(state, done, key, weights, {"adamw": optimizer})

    bar = tqdm(range(start, steps), desc=name, initial=start, total=steps, unit="step")
    try:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = lr * cosine(step, steps) * min(1.0, (step + 1) / 100)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_at(step)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            if not (loss.isfinite() and norm.isfinite()):
                raise BadNumberError(
                    f"the loss or gradient of the {name} is not finite at step {step}; try a lower {name}.lr"
                )
            optimizer.step()
            done = step + 1
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.4g}")
            check()
            if done % save_every == 0 or done == steps:
                save()
    except Interrupted:
        save()
        raise
