"""The loss against numbers made by the original DiT's code (tests/data/vlb_oracle.json)."""

import json
from functools import cached_property
from pathlib import Path

import pytest
import torch

from erase.diffusion import LN2, Schedule, dit_loss, noise_mse, variance_term

ORACLE = json.loads((Path(__file__).parent / "data" / "vlb_oracle.json").read_text())
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def given(name, shape="shape"):
    return torch.tensor(ORACLE[name]).reshape(ORACLE[shape])


def expected(name):
    return torch.tensor(ORACLE["expected"][name])


@pytest.fixture
def case():
    """x0, noise, t, the model's output (with gradient) and x_t of the oracle."""
    x0, noise, t = given("x_start"), given("noise"), torch.tensor(ORACLE["t"])
    output = given("model_output", "out_shape").requires_grad_(True)
    return x0, noise, t, output, Schedule().add_noise(x0, noise, t)


def test_noising_is_the_oracle_s(case):
    torch.testing.assert_close(case[4], expected("x_t").reshape(ORACLE["shape"]), **CLOSE)


def test_loss_and_both_its_terms_are_the_oracle_s(case):
    x0, noise, t, output, xt = case
    torch.testing.assert_close(noise_mse(output, noise), expected("mse"), **CLOSE)
    torch.testing.assert_close(variance_term(Schedule(), output, x0, xt, t), expected("vb"), **CLOSE)
    torch.testing.assert_close(dit_loss(Schedule(), output, x0, xt, noise, t), expected("loss"), **CLOSE)


def test_gradient_of_the_mean_loss_is_the_oracle_s(case):
    x0, noise, t, output, xt = case
    dit_loss(Schedule(), output, x0, xt, noise, t).mean().backward()
    wanted = expected("grad_of_mean_loss_wrt_model_output").reshape(ORACLE["out_shape"])
    torch.testing.assert_close(output.grad, wanted, rtol=0, atol=1e-6)
    assert wanted.abs().max() > 1e-3  # the tolerance is small beside what it measures


def test_schedule_values_are_the_oracle_s():
    schedule, wanted = Schedule(), ORACLE["schedule"]
    found = {
        "beta": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "log_beta": schedule.betas.log(),
        "posterior_mean_coef1": schedule.posterior_x0,
        "posterior_mean_coef2": schedule.posterior_xt,
    }
    for name, values in found.items():
        assert values[wanted["idx"]].tolist() == pytest.approx(wanted[name], rel=1e-9, abs=1e-12), name
        assert len(values) == 1000


def test_variance_term_sends_no_gradient_to_the_predicted_noise(case):
    x0, _, t, output, xt = case
    variance_term(Schedule(), output, x0, xt, t).sum().backward()
    eps, variance = output.grad.chunk(2, dim=1)
    assert torch.count_nonzero(eps) == 0
    assert torch.count_nonzero(variance) == variance.numel()


def test_noise_error_sends_no_gradient_to_the_variance_channels(case):
    _, noise, _, output, _ = case
    noise_mse(output, noise).sum().backward()
    eps, variance = output.grad.chunk(2, dim=1)
    assert torch.count_nonzero(variance) == 0
    assert torch.count_nonzero(eps) > 0


def test_without_variance_channels_the_loss_is_the_noise_error(case):
    x0, noise, t, output, xt = case
    eps = output.detach().chunk(2, dim=1)[0]
    assert torch.equal(dit_loss(Schedule(), eps, x0, xt, noise, t), noise_mse(output, noise))


def test_gradient_is_the_numerical_one(case):
    """In float32 the term is too coarse for a difference quotient at large t, so at t = 0 and 1 alone."""
    x0, _, t, output, xt = (part[:2] for part in case)
    output = output.detach().requires_grad_(True)
    variance_term(Schedule(), output, x0, xt, t).sum().backward()
    moved = torch.zeros_like(output)
    moved[:, 2:] = 1e-2
    ahead, behind = (variance_term(Schedule(), output + sign * moved, x0, xt, t) for sign in (1, -1))
    slope = (ahead - behind).sum() / 2e-2
    assert slope.item() == pytest.approx(output.grad[:, 2:].sum().item(), rel=2e-3)


class Unclipped(Schedule):
    """diffusers' reading: the posterior variance at t = 0 is 0, floored at 1e-20."""

    @cached_property
    def posterior_log_variance(self):
        variance = self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        return variance.clamp(min=1e-20).log()


def test_the_oracle_tells_the_unclipped_posterior_variance_apart(case):
    x0, _, t, output, xt = case
    found, wanted = variance_term(Unclipped(), output, x0, xt, t), expected("vb")
    assert not torch.isclose(found[0], wanted[0], rtol=1e-2)
    torch.testing.assert_close(found[1:], wanted[1:], **CLOSE)


def test_the_oracle_tells_nats_from_bits(case):
    x0, _, t, output, xt = case
    nats = variance_term(Schedule(), output, x0, xt, t) * LN2
    assert not torch.isclose(nats, expected("vb"), **CLOSE).any()


def test_noising_keeps_unit_variance_and_ends_in_noise():
    schedule = Schedule()
    signal, sigma, *_ = schedule.at(torch.arange(1000))
    torch.testing.assert_close(signal.square() + sigma.square(), torch.ones_like(signal))
    assert signal.flatten()[0] > 0.9999
    assert signal.flatten()[-1] < 0.01
    assert (signal.flatten().diff() < 0).all()


def test_schedules_of_other_length_do_not_share_their_tables():
    t = torch.tensor([5])
    short, long = Schedule(timesteps=10), Schedule()
    assert long.at(t)[0] != short.at(t)[0]
    assert short.at(t)[0].item() == pytest.approx(short.alphas_cumprod[5].sqrt().item(), rel=1e-6)
