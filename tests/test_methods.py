"""Losses and masks against numbers worked out by hand."""

import pytest
import torch

from erase.config import RunConfig
from erase.errors import UserError
from erase.methods import METHODS, POLICIES, find_method, matrix, refusal
from erase.methods.finetune import Finetune
from erase.methods.sfron import Options, SFRon
from erase.presets import resolve


class FakeTask:
    """Per-sample noise errors and losses that are given."""

    def __init__(self, *errors):
        self.errors = torch.tensor(errors, requires_grad=True)

    def mse(self, batch):
        return self.errors

    def loss(self, batch):
        return 10 * self.errors


def forget(ascent, *errors, **options):
    """Loss and its gradient by the per-sample errors."""
    task = FakeTask(*errors)
    method = SFRon(Options("sfron", ascent=ascent, **options), task)
    loss = method.loss("forget", None)
    loss.backward()
    method.observe({"forget": task.errors.detach()})
    assert method.report("forget")["forget_mse"].item() == pytest.approx(sum(errors) / len(errors))
    return loss.item(), task.errors.grad.tolist()


def test_ga_ascends_the_mean_error():
    loss, gradient = forget("ga", 0.5, 2.0, 3.5, 1.0)
    assert loss == pytest.approx(-1.75)
    assert gradient == pytest.approx([-0.25] * 4)


def test_adaga_weighs_a_sample_by_its_inverse_error():
    """Power 1/2: weights 1/0.5, 1/2, normalised to 0.8 and 0.2, and no gradient through them."""
    loss, gradient = forget("adaga", 0.25, 4.0, adaga_power=0.5)
    assert gradient == pytest.approx([-0.8, -0.2])
    assert loss == pytest.approx(-(0.8 * 0.25 + 0.2 * 4.0))


def test_adaga_of_power_zero_is_ga():
    assert forget("adaga", 0.25, 4.0, 1.0, adaga_power=0.0)[1] == pytest.approx(forget("ga", 0.25, 4.0, 1.0)[1])


def test_bounded_no_longer_pushes_samples_above_the_bound():
    loss, gradient = forget("bounded", 0.5, 1.5, 0.9, 7.0, bound=1.0)
    assert loss == pytest.approx(-(0.5 + 1.0 + 0.9 + 1.0) / 4)
    assert gradient == pytest.approx([-0.25, 0.0, -0.25, 0.0])
    assert gradient[1] == gradient[3] == 0.0


def test_bounded_is_ga_below_the_bound():
    assert forget("bounded", 0.5, 1.5, bound=2.0) == forget("ga", 0.5, 1.5)


def test_ga_does_push_samples_above_the_bound():
    """The negative control of the bound."""
    assert forget("ga", 7.0, bound=1.0)[1] == [-1.0]


def test_the_retain_loss_is_the_mean_training_loss():
    for method in (SFRon(Options("sfron"), FakeTask(1.0, 2.0)), Finetune(Finetune.Options(), FakeTask(1.0, 2.0))):
        method.start({}, {})
        assert method.loss("retain", None).item() == pytest.approx(15.0)
        assert method.report("retain") == {}


def test_a_retain_step_does_not_report_the_forget_step_before_it():
    method = SFRon(Options("sfron"), FakeTask(1.0, 2.0))
    method.start({}, {})
    method.observe({"forget": torch.tensor([1.0, 2.0])})
    assert method.report("forget")["forget_mse"] == 1.5
    method.observe({"retain": torch.tensor([1.0, 2.0])})
    assert method.report("retain") == {}


def masked_method(gamma=1.0):
    parameters = {"a": torch.nn.Parameter(torch.zeros(3)), "b": torch.nn.Parameter(torch.zeros(2))}
    precomputed = {
        "forget/a": torch.tensor([2.0, 1.0, 0.0]),
        "retain/a": torch.tensor([1.0, 1.5, 0.0]),
        "forget/b": torch.tensor([1.0, 1.0]),
        "retain/b": torch.tensor([5.0, 0.5]),
    }
    method = SFRon(Options("sfron", gamma=gamma), None)
    method.start(precomputed, parameters)
    return method, parameters


def gradients_after(objective, gamma=1.0):
    method, parameters = masked_method(gamma)
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 3.0)
    method.edit_gradients(objective)
    return [parameter.grad.tolist() for parameter in parameters.values()]


def test_forget_gradients_are_masked_by_the_ratio_of_the_diagonals():
    assert gradients_after("forget") == [[3.0, 0.0, 0.0], [0.0, 3.0]]
    assert gradients_after("forget", gamma=0.5) == [[3.0, 3.0, 0.0], [0.0, 3.0]]


def test_retain_gradients_are_not_masked():
    assert gradients_after("retain") == [[3.0, 3.0, 3.0], [3.0, 3.0]]


def test_weights_without_gradient_stay_so():
    method, parameters = masked_method()
    method.edit_gradients("forget")
    assert all(parameter.grad is None for parameter in parameters.values())


def test_unknown_methods_name_the_nearest():
    assert find_method("sfron") is SFRon
    with pytest.raises(UserError, match=r"unknown method 'finetne'; did you mean 'finetune'\?"):
        find_method("finetne")


def test_one_objective_has_nothing_to_keep_apart():
    assert refusal(Finetune, "shared") is None
    assert "use --optimizer shared" in refusal(Finetune, "dual")
    assert refusal(SFRon, "dual") is refusal(SFRon, "shared") is None
    with pytest.raises(UserError, match="unknown optimizer policy"):
        refusal(SFRon, "tripple")


@pytest.mark.parametrize("asked", [{"preset": "digits/sfron-dual"}, {"preset": None}])
def test_a_run_of_one_objective_under_dual_is_refused(asked):
    with pytest.raises(UserError, match="finetune has one objective"):
        resolve(RunConfig(["3"], method="finetune", optimizer="dual", **asked))


def test_the_matrix_has_every_method_and_policy():
    rows = {row["method"]: row for row in matrix()}
    assert rows.keys() == METHODS.keys()
    for name, row in rows.items():
        assert METHODS[name].name == name
        assert row["policies"].keys() == POLICIES.keys()
        assert row["summary"]
        assert row["needs"]
    assert rows["finetune"]["policies"]["dual"]
    assert rows["sfron"]["policies"] == dict.fromkeys(POLICIES)
    assert rows["ltu"]["updates"] == ["joint"]


def test_a_method_of_one_gradient_takes_its_one_policy_if_none_is_asked_for(tmp_path):
    for name in ("eupmu", "finetune", "retrain"):
        assert resolve(RunConfig(["3"], method=name)) == resolve(RunConfig(["3"], method=name, optimizer="shared"))
    assert resolve(RunConfig(["3"], method="surgery")).optimizer.policy == "dual"
    bare = tmp_path / "bare.yaml"
    bare.write_text("method: {name: eupmu}")
    assert resolve(RunConfig(["3"], config=str(bare))).optimizer.policy == "shared"


def test_every_possible_pair_of_method_and_policy_has_a_preset_for_digits():
    from erase.files import shipped
    from erase.methods import matrix

    for row in matrix():
        for policy, why in row["policies"].items():
            assert (shipped("configs") / "digits" / f"{row['method']}-{policy}.yaml").is_file() == (why is None)
