"""Schedule, noising, and the DiT training loss with learned variance.

Sources: Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (learned variance, "improved DDPM"), Peebles & Xie 2023 (DiT).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

LN2 = math.log(2.0)


@dataclass(frozen=True)
class Schedule:
    """The linear beta schedule of DiT. Arrays are float64 tensors of length ``timesteps`` on the CPU."""

    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    @cached_property
    def betas(self) -> torch.Tensor:
        return torch.linspace(self.beta_start, self.beta_end, self.timesteps, dtype=torch.float64)

    @cached_property
    def alphas_cumprod(self) -> torch.Tensor:
        return torch.cumprod(1.0 - self.betas, dim=0)

    @cached_property
    def alphas_cumprod_prev(self) -> torch.Tensor:
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_log_variance(self) -> torch.Tensor:
        """Log variance of q(x_{t-1} | x_t, x_0), DDPM eq. 7; its value at t = 1 stands in for the -inf at t = 0."""
        variance = self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        return torch.log(torch.cat([variance[1:2], variance[1:]]))

    @cached_property
    def posterior_x0(self) -> torch.Tensor:
        """Coefficient of x_0 in the posterior mean (DDPM eq. 7)."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_xt(self) -> torch.Tensor:
        """Coefficient of x_t in the posterior mean (DDPM eq. 7)."""
        return (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def _table(self) -> torch.Tensor:
        """Every coefficient the loss needs, one row each, rounded to float32 once."""
        abar = self.alphas_cumprod
        rows = [
            abar.sqrt(), (1 - abar).sqrt(), (1 / abar).sqrt(), (1 / abar - 1).sqrt(),
            self.posterior_x0, self.posterior_xt, self.posterior_log_variance, self.betas.log(),
        ]  # fmt: skip
        return torch.stack(rows).float()

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The eight coefficients at ``t`` (int64, n), each n x 1 x 1 x 1 float32 on t's device."""
        device = str(t.device)
        if device not in _TABLES.setdefault(self, {}):
            _TABLES[self][device] = self._table.to(t.device)
        return tuple(_TABLES[self][device][:, t, None, None, None])

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (DDPM eq. 4). Shapes n x C x H x W; t int64, n."""
        signal, sigma, *_ = self.at(t)
        return signal * x0 + sigma * noise


_TABLES: dict[Schedule, dict[str, torch.Tensor]] = {}


def noise_mse(output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Per-sample mean squared error of the predicted noise: the first C of ``output``'s channels. Shape n, fp32."""
    eps = output[:, : noise.shape[1]].float()
    return (eps - noise.float()).square().flatten(1).mean(1)


def variance_term(
    schedule: Schedule, output: torch.Tensor, x0: torch.Tensor, xt: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Per-sample variational term in bits a dimension, fp32, n: it trains the variance channels alone.

    KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)) for t > 0, and the discretised decoder's negative log likelihood for t = 0
    (Nichol & Dhariwal 2021, eq. 4-6 and 15-16; the noise prediction is detached as there). ``output``: n x 2C x H x W.
    """
    x0, xt, output = x0.float(), xt.float(), output.float()
    eps, v = output.chunk(2, dim=1)
    _, _, recip, recip_m1, c_x0, c_xt, log_min, log_max = schedule.at(t)
    share = (v + 1) / 2
    log_variance = share * log_max + (1 - share) * log_min
    predicted_x0 = recip * xt - recip_m1 * eps.detach()
    mean = c_x0 * predicted_x0 + c_xt * xt
    true_mean = c_x0 * x0 + c_xt * xt
    kl = 0.5 * (
        log_variance - log_min - 1 + torch.exp(log_min - log_variance)
        + (true_mean - mean).square() * torch.exp(-log_variance)
    )  # fmt: skip
    decoder = -discretised_log_likelihood(x0, mean, 0.5 * log_variance)
    first = (t == 0)[:, None, None, None]
    return torch.where(first, decoder, kl).flatten(1).mean(1) / LN2


def discretised_log_likelihood(x: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log probability of the bin of width 2/255 around ``x`` under a Gaussian, tails left open beyond +-0.999.

    DDPM eq. 13, with the tanh approximation of the normal distribution function that DiT trains with.
    """
    inverse_std = torch.exp(-log_std)
    upper = _normal_cdf((x - mean + 1 / 255) * inverse_std)
    lower = _normal_cdf((x - mean - 1 / 255) * inverse_std)
    share = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return share.clamp(min=1e-12).log()


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def dit_loss(
    schedule: Schedule,
    output: torch.Tensor,
    x0: torch.Tensor,
    xt: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
) -> torch.Tensor:
    """Per-sample DiT training loss, n, fp32: noise MSE plus, where the model learns its variance, its term."""
    mse = noise_mse(output, noise)
    if output.shape[1] == noise.shape[1]:
        return mse
    return mse + variance_term(schedule, output, x0, xt, t)
