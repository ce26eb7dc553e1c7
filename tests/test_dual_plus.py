"""DualOptim+: its update by hand, and its limits."""

import pytest
import torch

from erase.config import BaseMoments, OptimizerConfig, OptimizerSide
from erase.errors import UserError
from erase.optim import make_policy


def walk(objectives, policy="dual_plus", size=5, same_gradient=False, **config):
    """Weights after each step of a fixed sequence of gradients."""
    weights = torch.nn.Parameter(torch.linspace(-1, 1, size))
    made = make_policy(OptimizerConfig(policy, **config), [weights])
    generator = torch.Generator().manual_seed(0)
    constant = torch.randn(size, generator=generator)
    seen = [weights.detach().clone()]
    for objective in objectives:
        weights.grad = constant.clone() if same_gradient else torch.randn(size, generator=generator)
        made.step(objective, 0.01)
        seen.append(weights.detach().clone())
    return seen


ORDER = ["forget", "retain", "retain", "forget", "retain", "forget", "forget"]


def test_with_a_frozen_base_it_is_dual():
    plus = walk(ORDER, base=BaseMoments(1.0, 1.0))
    for mine, dual in zip(plus, walk(ORDER, "dual"), strict=True):
        torch.testing.assert_close(mine, dual, rtol=0, atol=1e-6)


def test_with_a_frozen_base_and_one_objective_it_is_adam():
    weights = torch.nn.Parameter(torch.linspace(-1, 1, 5))
    adam = torch.optim.Adam([weights], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    torch.randn(5, generator=generator)
    for mine in walk(["forget"] * 6, base=BaseMoments(1.0, 1.0))[1:]:
        weights.grad = torch.randn(5, generator=generator)
        adam.step()
        torch.testing.assert_close(mine, weights.detach(), rtol=0, atol=1e-6)


def test_with_frozen_deltas_every_step_is_shared_adams_of_the_gradient_before():
    """m_k = v_k = 0: only the base is left, and it is read before it takes in the new gradient."""
    still = OptimizerSide(beta1=1.0, beta2=1.0)
    plus = walk(ORDER, forget=still, retain=still)
    shared = walk(ORDER, "shared")
    assert torch.equal(plus[0], plus[1])
    for late, now in zip(range(1, len(ORDER)), range(len(ORDER) - 1), strict=True):
        torch.testing.assert_close(plus[late + 1] - plus[late], shared[now + 1] - shared[now], rtol=0, atol=1e-6)


def test_in_general_it_is_neither():
    plus, dual, shared = (walk(ORDER, policy)[-1] for policy in ("dual_plus", "dual", "shared"))
    assert (plus - dual).abs().max() > 1e-3
    assert (plus - shared).abs().max() > 1e-3


def test_objectives_that_agree_share_the_base():
    """One constant gradient: the deltas' residual vanishes and every step is lr, as of any Adam."""
    seen = walk(["forget", "retain"] * 40, same_gradient=True)
    torch.testing.assert_close((seen[-1] - seen[-2]).abs(), torch.full((5,), 0.01), rtol=0.02, atol=0)


def test_two_steps_by_hand():
    """b = 0.5 everywhere, lr 0.1; the base is read before the gradient: zero at first, then 2 and 4."""
    side, lr = OptimizerSide(beta1=0.5, beta2=0.5, eps=1e-12), 0.1
    config = OptimizerConfig("dual_plus", forget=side, retain=side, base=BaseMoments(0.5, 0.5))
    weights = torch.nn.Parameter(torch.zeros(1))
    policy = make_policy(config, [weights])
    weights.grad = torch.tensor([2.0])
    policy.step("forget", lr)
    assert weights.item() == pytest.approx(-0.1)
    weights.grad = torch.tensor([1.0])
    policy.step("retain", lr)
    direction, scale = (0.5 * (1 - 2)) / 0.5 + 2, (0.5 * (1 - 4)) / 0.5 + 4
    assert weights.item() == pytest.approx(-0.1 - lr * direction / scale**0.5)


def test_its_state_is_saved_and_continued(tmp_path):
    from erase.state import load_state, save_state

    def make():
        weights = torch.nn.Parameter(torch.ones(3))
        return weights, make_policy(OptimizerConfig("dual_plus"), [weights])

    def steps(weights, policy, numbers):
        for number in numbers:
            weights.grad = torch.sin(torch.arange(3.0) + number)
            policy.step("forget" if number % 2 else "retain", 0.1)

    whole, policy = make()
    steps(whole, policy, range(9))
    first, policy = make()
    steps(first, policy, range(4))
    save_state(tmp_path / "s", 4, "k", {"w": first}, policy.optimizers)
    second, policy = make()
    assert load_state(tmp_path / "s", "k", {"w": second}, policy.optimizers) == 4
    steps(second, policy, range(4, 9))
    assert torch.equal(whole, second)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_it_is_a_form_of_adamw(kind):
    with pytest.raises(UserError, match=f"optimizer.forget.kind={kind}"):
        make_policy(OptimizerConfig("dual_plus", forget=OptimizerSide(kind)), [torch.nn.Parameter(torch.ones(1))])
