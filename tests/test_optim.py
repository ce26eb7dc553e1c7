"""Policies and schedules."""

import math

import pytest
import torch

from erase.config import ObjectiveConfig, OptimizerConfig, OptimizerSide
from erase.errors import UserError
from erase.optim import cosine, make_policy, scheduled

MASK = torch.tensor([True, False] * 3)


def train(policy_name, objectives, kind="adamw"):
    """Weights before and after each step of a fixed sequence of gradients, the forget ones masked."""
    side = OptimizerSide(kind=kind)
    weights = torch.nn.Parameter(torch.linspace(-1, 1, 6))
    policy = make_policy(OptimizerConfig(policy_name, forget=side, retain=side), [weights])
    generator = torch.Generator().manual_seed(0)
    seen = [weights.detach().clone()]
    for objective in objectives:
        gradient = torch.randn(6, generator=generator)
        weights.grad = gradient * MASK if objective == "forget" else gradient
        policy.step(objective, 0.01)
        seen.append(weights.detach().clone())
    return seen


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_under_dual_a_forget_step_leaves_masked_weights_bit_identical(kind):
    seen = train("dual", ["retain", "retain", "forget", "retain", "forget"], kind)
    for before, after in (seen[2:4], seen[4:6]):
        assert torch.equal(before[~MASK], after[~MASK])
        assert (before[MASK] != after[MASK]).all()


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_under_shared_the_retain_momentum_moves_masked_weights(kind):
    before, after = train("shared", ["retain", "retain", "forget"], kind)[2:4]
    assert (before[~MASK] != after[~MASK]).all()


def test_policies_differ_in_state_alone():
    """The first step of each objective has no momentum yet: dual's first forget step is a fresh Adam step."""
    dual, fresh = train("dual", ["forget"]), train("shared", ["forget"])
    assert torch.equal(dual[1], fresh[1])
    later, shared = train("dual", ["retain", "forget"]), train("shared", ["retain", "forget"])
    assert torch.equal(later[1], shared[1])
    assert not torch.allclose(later[2], shared[2], atol=1e-5)


def test_each_step_takes_the_learning_rate_it_is_given():
    weights = torch.nn.Parameter(torch.zeros(1))
    policy = make_policy(OptimizerConfig("dual", forget=OptimizerSide("sgd"), retain=OptimizerSide("sgd")), [weights])
    for objective, lr, wanted in (("forget", 0.5, -0.5), ("retain", 0.25, -0.75)):
        weights.grad = torch.ones(1)
        policy.step(objective, lr)
        assert weights.item() == wanted


def test_sides_have_their_own_rules():
    weights = torch.nn.Parameter(torch.ones(2))
    sides = {"forget": OptimizerSide("sgd", beta1=0.5), "retain": OptimizerSide("adam", beta2=0.9, weight_decay=0.1)}
    policy = make_policy(OptimizerConfig("dual", **sides), [weights])
    forget, retain = policy.choose("forget"), policy.choose("retain")
    assert (type(forget), type(retain)) == (torch.optim.SGD, torch.optim.Adam)
    assert forget.param_groups[0]["momentum"] == 0.5
    assert retain.param_groups[0]["betas"] == (0.9, 0.9)
    assert retain.param_groups[0]["weight_decay"] == 0.1


def test_unknown_policy_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown optimizer policy 'daul'; did you mean 'dual'\?"):
        make_policy(OptimizerConfig("daul"), [torch.nn.Parameter(torch.zeros(1))])


def test_cosine_falls_from_one_through_a_half():
    assert cosine(0, 10) == 1.0
    assert cosine(5, 10) == pytest.approx(0.5)
    assert cosine(9, 10) == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)
    assert cosine(9, 10) > 0
    assert cosine(0, 0) == 1.0


def test_warm_up_reaches_the_full_rate_and_multiplies_with_the_cosine():
    constant = ObjectiveConfig(lr=0.8, warmup=4)
    assert [scheduled(constant, step, 100)[0] for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    falling = ObjectiveConfig(lr=0.8, warmup=4, lr_schedule="cosine")
    assert scheduled(falling, 1, 8)[0] == pytest.approx(0.4 * cosine(1, 8))


def test_weight_has_a_schedule_of_its_own():
    objective = ObjectiveConfig(lr=1.0, weight=2.0, weight_schedule="cosine")
    assert scheduled(objective, 5, 10) == pytest.approx((1.0, 1.0))
    assert scheduled(ObjectiveConfig(lr=1.0, weight=2.0, lr_schedule="cosine"), 5, 10) == pytest.approx((0.5, 2.0))
