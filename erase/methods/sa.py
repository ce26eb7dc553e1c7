"""SA: selective amnesia (NeurIPS 2023, arXiv 2305.10120), adapted to DiT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ..config import setting
from ..data.latents import LatentSet, fixed_latents
from ..saliency import fisher_diagonal, fisher_summed, mean_loss
from . import base


@dataclass(frozen=True)
class Options(base.Options):
    surrogate: str = setting(
        "noise",
        "what the forgotten label shall draw: noise latents, or the next class that has images",
        choices=("noise", "class"),
    )
    surrogates: int = setting(1024, "noise latents in the set; each use draws new noise", low=1, high=10**6)
    replay: str = setting(
        "generated", "retain images: the model's own samples, or the real ones", choices=("generated", "real")
    )
    replay_per_class: int = setting(100, "samples of each class for replay and Fisher", low=1, high=10**5)
    fisher: str = setting(
        "sampled",
        "sampled: squared gradients at random timesteps; exact: of the loss's mean over all timesteps",
        choices=("sampled", "exact"),
    )
    fisher_samples: int = setting(1024, "samples of the sampled Fisher diagonal", low=1, high=10**7)
    fisher_images: int = setting(100, "images of the exact Fisher diagonal", low=1, high=100)
    strength: float = setting(
        1.0, "weight of the elastic penalty: at 1, a predicted relative change of the loss of 1 costs one loss", low=0.0
    )


class SelectiveAmnesia(base.Method):
    """Corrupt (train the forgotten label on surrogates), replay (train the others on the model's samples), EWC.

    J = E_q L(theta; x, c_f) + E_replay L(theta; x, y) + strength / L0 * sum_i F_i (theta_i - theta0_i)^2. L0 is the
    loss of the original model: sum F d^2 / L0^2 is the squared relative change of the loss that the Fisher diagonal
    predicts, so ``strength`` has the same meaning whatever the loss is multiplied by. The replay and the penalty form
    the retain objective, whose weight scales both. As in the original, F takes in all classes, the forgotten too. The
    replay is drawn under the run's sampling protocol, so that another one gives another result, and trained on with
    label dropout as the real images would be; a surrogate class is one of the replay's. Corrupt and replay draw
    timesteps of their own each, where the original gives both one antithetic vector. ``fisher=exact`` is of the
    loss's mean over timesteps, whose square is smaller than that of single ones: the same strength then holds less.
    """

    name = "sa"
    summary = "train the class on noise, hold the rest by replay and an elastic penalty"
    needs = ("samples of the model's own", "Fisher diagonal", "a copy of the original weights")
    precomputed_from = ("replay_per_class", "fisher", "fisher_samples", "fisher_images")
    memory = 2
    per_model = True
    quick: ClassVar[dict[str, Any]] = {"replay_per_class": 2, "fisher_samples": 16, "fisher_images": 1}
    Options = Options

    def precompute(self, beforehand: base.Beforehand) -> base.Tensors:
        assert beforehand.replay is not None
        options, module = self.options, beforehand.module
        replay = beforehand.replay(options.replay_per_class)
        if options.fisher == "sampled":
            fisher = fisher_diagonal(module, self.task.loss, beforehand.batches(replay, options.fisher_samples))
        else:
            singles = beforehand.images(replay, options.fisher_images)
            images = (beforehand.cut(self.task.over_timesteps(image)) for image in singles)
            total = fisher_summed(module, self.task.loss, images)
            fisher = {name: value / self.task.schedule.timesteps**2 for name, value in total.items()}  # of the mean
        level = mean_loss(self.task.loss, beforehand.batches(replay, options.fisher_samples))
        latents = replay.moments.mean * replay.moments.scaling_factor
        drawn = {"replay/latents": latents, "replay/labels": torch.from_numpy(replay.labels)}
        return {**drawn, "level": level, **{f"fisher/{name}": value for name, value in fisher.items()}}

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        self.latents, self.labels = precomputed["replay/latents"].cpu(), precomputed["replay/labels"].cpu().numpy()
        self.parameters: list[torch.Tensor] = list(parameters.values())
        self.anchor = [p.detach().clone() for p in self.parameters]
        scale = self.options.strength / precomputed["level"]
        self.stiffness = [precomputed[f"fisher/{name}"] * scale for name in parameters]
        self.penalty: torch.Tensor | None = None

    def training_sets(self, sets: base.Sets, seed: int) -> base.Sets:
        factor = sets["forget"].moments.scaling_factor
        forget, retain = np.array(sorted(self.task.forget)), sets["retain"]
        if self.options.replay == "generated":
            keep = ~np.isin(self.labels, forget)
            retain = fixed_latents(self.latents[torch.from_numpy(keep)], self.labels[keep], factor)
        if self.options.surrogate == "noise":
            zeros = torch.zeros(max(self.options.surrogates, len(forget)), *self.latents.shape[1:])
            surrogate = fixed_latents(zeros, np.resize(forget, len(zeros)), factor, spread=1.0)
            return {"forget": surrogate, "retain": retain}
        rows, labels, present = [], [], np.unique(retain.labels)
        for label in forget:
            stand_in = present[np.searchsorted(present, label) % len(present)]
            rows.append(retain.rows[retain.labels == stand_in])
            labels.append(np.full(len(rows[-1]), label))
        surrogate = LatentSet(retain.moments, np.concatenate(rows), np.concatenate(labels))
        return {"forget": surrogate, "retain": retain}

    def forget_values(self, batch: Any) -> torch.Tensor:
        values: torch.Tensor = self.task.loss(batch)
        return values

    def edit_gradients(self, objective: str, weight: float = 1.0) -> None:
        """Adds the gradient of the penalty, 2 strength / L0 F_i (theta_i - theta0_i), to the retain objective."""
        if objective != "retain" or not self.options.strength:
            return
        with torch.no_grad():
            moved = torch._foreach_sub(self.parameters, self.anchor)
            pull = torch._foreach_mul(moved, self.stiffness)
            self.penalty = base.inner(list(moved), list(pull))
            pairs = [(p.grad, tug) for p, tug in zip(self.parameters, pull, strict=True) if p.grad is not None]
            torch._foreach_add_([gradient for gradient, _ in pairs], [tug for _, tug in pairs], alpha=2.0 * weight)

    def report(self, objective: str) -> dict[str, torch.Tensor]:
        return {"penalty": self.penalty} if objective != "forget" and self.penalty is not None else {}
