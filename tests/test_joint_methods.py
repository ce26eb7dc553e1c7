"""Methods that combine two gradients: EUPMU, its explicit oracle, LTU, and the joint step of the loop."""

import dataclasses

import numpy as np
import pytest
import torch

from erase.config import ObjectiveConfig, OptimizerConfig, OptimizerSide, RunConfig, RuntimeConfig, UnlearnConfig
from erase.data.latents import Batch, fixed_latents
from erase.diffusion import Schedule
from erase.errors import UserError
from erase.methods import METHODS, refusal
from erase.methods.base import Method
from erase.methods.ltu import by_class, by_image, without_conflict
from erase.methods.surgery import conflict_weight
from erase.optim import make_policy
from erase.presets import resolve
from erase.task import DiffusionTask
from erase.trainer import Trainer, make_accelerator

from .helpers import make_batch, make_stream, make_transformer, perturb, same, weights_of


class Quadratic(torch.nn.Module):
    """A point that one side wants at (1, 0) and the other at (-2, 1), each with a curvature of its own."""

    def __init__(self):
        super().__init__()
        self.point = torch.nn.Parameter(torch.tensor([0.3, 0.2]))


class QuadraticTask:
    """Stands in for diffusion: the forget loss is the distance, the retain loss the loss."""

    def __init__(self, module, slope=None):
        self.module, self.slope = module, slope

    def next_class(self, labels):
        return labels

    def distance(self, batch, labels):
        pull = self.module.point - torch.tensor([1.0, 0.0])
        return 0.5 * (pull**2 * torch.tensor([1.0, 3.0])).sum()[None]

    def loss(self, batch):
        pull = self.module.point - torch.tensor([-2.0, 1.0])
        return (0.5 * (pull**2 * torch.tensor([2.0, 0.5])).sum() + 1)[None]


class Constant:
    """A stream without content."""

    def batch(self, step):
        return make_batch(1)


def train(tmp_path, name, rounds, policy="shared", weights=(1.0, 1.0), lr=1e-3, kind="sgd", **options):
    module = Quadratic()
    method = METHODS[name](METHODS[name].Options(name, **options), QuadraticTask(module))
    method.start({}, dict(module.named_parameters()))
    side = OptimizerSide(kind, beta1=0.0)
    plan = UnlearnConfig(
        rounds=rounds,
        forget=ObjectiveConfig(lr=lr, weight=weights[0]),
        retain=ObjectiveConfig(lr=lr, weight=weights[1]),
    )
    trainer = Trainer(
        make_accelerator(RuntimeConfig(device="cpu")), module, method,
        make_policy(OptimizerConfig(policy, forget=side, retain=side), module.parameters()),
        {"forget": Constant(), "retain": Constant()}, plan, tmp_path / "state", "key",
    )  # fmt: skip
    return trainer, method


def true_gradients(module):
    task = QuadraticTask(module)
    return [
        torch.autograd.grad(loss, [module.point]) for loss in (task.distance(None, torch.zeros(1)), task.loss(None))
    ]


@pytest.mark.parametrize("tolerance", [0.0, 0.7])
def test_eupmus_weight_converges_to_the_closed_form(tmp_path, tolerance):
    """On a quadratic with steps so small that the point hardly moves while the weight settles."""
    trainer, method = train(
        tmp_path, "eupmu", 400, lr=1e-5, log=False, tolerance=tolerance, weight_lr=0.02, weight_start=0.0
    )
    trainer.run()
    forget, retain = true_gradients(trainer.module)
    wanted = conflict_weight(list(forget), list(retain), tolerance)
    assert wanted > 0.05
    assert method.weight.item() == pytest.approx(wanted.item(), rel=0.02)


def test_a_tolerance_of_the_opposite_sign_would_converge_elsewhere(tmp_path):
    """The negative control: the published code subtracts the tolerance."""
    module = Quadratic()
    forget, retain = (list(g) for g in true_gradients(module))
    right, wrong = conflict_weight(forget, retain, 0.7), conflict_weight(forget, retain, -0.7)
    assert wrong - right > 0.05


def test_eupmus_weight_never_falls_below_zero(tmp_path):
    trainer, method = train(tmp_path, "eupmu", 30, log=False, tolerance=50.0, weight_lr=1.0, weight_start=0.5)
    trainer.run()
    assert method.weight.item() == 0.0


@pytest.mark.parametrize("log", [True, False])
def test_eupmus_first_step_by_hand(tmp_path, log):
    trainer, method = train(tmp_path, "eupmu", 1, lr=0.1, log=log, weight_lr=0.5, weight_start=2.0, tolerance=0.25)
    task, start = QuadraticTask(trainer.module), trainer.module.point.detach().clone()
    forget, retain = true_gradients(trainer.module)
    f, r = task.distance(None, None).item(), task.loss(None).item()
    trainer.run()
    direction = forget[0] / f + 2 * retain[0] / r if log else forget[0] + 2 * retain[0]
    torch.testing.assert_close(trainer.module.point.detach(), start - 0.1 * direction)
    after = task.loss(None)
    delta = torch.log(torch.tensor(r)) - after.log() if log else (r - after) / 0.1
    assert method.weight.item() == pytest.approx(max(0.0, 2.0 - 0.5 * (delta.item() + 0.25)), rel=1e-3)


def test_eupmu_sees_no_change_where_no_step_was_taken():
    module = make_transformer()
    task = DiffusionTask(module, Schedule(), [0, 1, 2], [0], 12)
    method = METHODS["eupmu"](METHODS["eupmu"].Options("eupmu"), task)
    method.start({}, dict(module.named_parameters()))
    batches = {"forget": make_batch(4), "retain": make_batch(4, seed=1)}
    method.observe({side: method.values(side, batch).detach() for side, batch in batches.items()})
    method.after_step(batches, 0.1, lambda side, batch: method.loss(side, batch).detach())
    assert torch.equal(method.before, method.after)


def test_eupmu_refuses_the_log_of_a_negative_loss():
    with pytest.raises(UserError, match=r"method\.log needs positive losses"):
        resolve(RunConfig(["3"], method={"name": "eupmu", "log": True, "erasure": "bounded"}, optimizer="shared"))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_surgery_bounds_the_retain_loss_and_moves_the_forget_gradient_no_further_than_needed(seed, tolerance):
    generator = torch.Generator().manual_seed(seed)
    forget, retain = ([torch.randn(3, generator=generator), torch.randn(2, 2, generator=generator)] for _ in "fr")
    method = METHODS["surgery"](METHODS["surgery"].Options("surgery", tolerance=tolerance), None)
    given = {"forget": forget, "retain": retain}
    edited = method.gradients({"forget": None, "retain": None}, lambda side, batches: [g.clone() for g in given[side]])

    def inner(a, b):
        return sum((x * y).sum().item() for x, y in zip(a, b, strict=True))

    assert inner(retain, edited["forget"]) >= -tolerance - 1e-5
    assert all(torch.equal(a, b) for a, b in zip(edited["retain"], retain, strict=True))
    if inner(forget, retain) >= -tolerance:
        assert all(torch.equal(a, b) for a, b in zip(edited["forget"], forget, strict=True))
        assert method.weight == 0
    else:
        assert inner(retain, edited["forget"]) == pytest.approx(-tolerance, abs=1e-4)


def test_surgery_under_shared_sums_and_under_dual_steps_apart(tmp_path):
    steps = {}
    for policy in ("shared", "dual"):
        trainer, _ = train(tmp_path / policy, "surgery", 1, policy, lr=0.1, weights=(1.0, 0.5))
        start = trainer.module.point.detach().clone()
        trainer.run()
        steps[policy] = start - trainer.module.point.detach()
    forget, retain = (g[0] for g in true_gradients(Quadratic()))
    weight = conflict_weight([forget], [retain], 0.0)
    assert weight > 0
    expected = 0.1 * (forget + weight * retain + 0.5 * retain)  # plain gradient descent adds up either way
    torch.testing.assert_close(steps["shared"], expected)
    torch.testing.assert_close(steps["dual"], expected)
    adam = {}
    for policy in ("shared", "dual"):
        trainer, _ = train(tmp_path / f"adam-{policy}", "surgery", 1, policy, lr=0.1, kind="adamw")
        start = trainer.module.point.detach().clone()
        trainer.run()
        adam[policy] = (start - trainer.module.point.detach()).abs()
    assert adam["shared"].max() == pytest.approx(0.1, rel=1e-3)  # one normalised step of the sum
    assert adam["dual"].max() > 0.15 or adam["dual"].min() < 0.05  # two, which add or cancel


def joint_losses(tmp_path, name, policy):
    """Two rounds of the joint step on a real transformer."""
    module = make_transformer(layers=1)
    task = DiffusionTask(module, Schedule(), [0, 1, 2], [0], 12)
    method = METHODS[name](METHODS[name].Options(name), task)
    method.start({}, dict(module.named_parameters()))
    plan = UnlearnConfig(rounds=2, finish=1, update="joint")
    streams = {side: make_stream(name=side, size=6, rows=12) for side in ("forget", "retain")}
    Trainer(
        make_accelerator(RuntimeConfig(device="cpu")), module, method,
        make_policy(OptimizerConfig(policy), module.parameters()), streams, plan, tmp_path / "s", "k",
        tmp_path / "m.jsonl",
    ).run()  # fmt: skip
    return weights_of(module), (tmp_path / "m.jsonl").read_text()


@pytest.mark.parametrize("name", ["ga", "random_label", "surgery", "ltu"])
def test_joint_rounds_then_retain_rounds(tmp_path, name):
    _, text = joint_losses(tmp_path, name, "dual")
    assert [line.split('"objective": ')[1].split(",")[0] for line in text.splitlines()] == ['"joint"'] * 2 + [
        '"retain"'
    ]


def split_batch(items, labels):
    batch = make_batch(len(items))
    labels = torch.tensor(labels)
    return dataclasses.replace(batch, items=torch.tensor(items), labels=labels, classes=labels)


def test_ltus_support_and_query_share_no_image_at_any_step_and_no_class():
    first, second = by_image(split_batch([4, 7, 2, 9, 4], [0] * 5))
    assert set(first.items.tolist()) == {4, 2}
    assert set(second.items.tolist()) == {7, 9}
    first, second = by_class(split_batch(range(7), [3, 1, 3, 5, 12, 1, 7]))
    assert set(first.labels.tolist()) == {3, 5, 7}
    assert set(second.labels.tolist()) == {1, 12}


def test_an_image_whose_label_was_dropped_goes_with_its_class():
    batch = split_batch(range(4), [3, 3, 5, 5])
    batch.labels = torch.tensor([3, 12, 12, 5])
    first, second = by_class(batch)
    assert (first.items.tolist(), second.items.tolist()) == ([0, 1], [2, 3])


def test_a_mirrored_image_has_the_number_of_its_original():
    stream = make_stream(rows=5, size=10)
    stream = dataclasses.replace(stream, moments=Mirrored(stream.moments), rows=np.arange(10), labels=np.arange(10) % 5)
    batch = stream.batch(0)
    assert sorted(batch.items.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    first, second = by_image(batch)
    assert not set(first.items.tolist()) & set(second.items.tolist())


class Mirrored:
    scaling_factor = 1.0

    def __init__(self, moments):
        self.moments, self.images = moments, moments.images

    def take(self, rows):
        return self.moments.take(rows % self.images)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"unlearn": {"forget": {"batch_size": 1}}}, "unlearn.forget.batch_size must be 2 or more"),
        ({"method": {"name": "ltu", "order": 2}, "runtime": {"micro_batch": 2}}, "no runtime.micro_batch"),
    ],
)
def test_ltu_refuses_what_it_cannot_halve_before_anything_is_loaded(words, why):
    with pytest.raises(UserError, match=why):
        resolve(RunConfig(forget=["3"], method="ltu"), words)


def test_a_batch_of_one_kind_is_halved_by_its_images():
    for split in (by_image, by_class):
        first, second = split(split_batch([2, 4, 6], [1, 1, 1]))
        assert (len(first), len(second)) == (2, 1)
        first, second = split(split_batch([2, 2, 4, 4], [1, 1, 1, 1]))  # two images and their mirrored copies
        assert (first.items.tolist(), second.items.tolist()) == ([2, 2], [4, 4])
        first, second = split(split_batch([2, 2], [1, 1]))
        assert len(first) == len(second) == 1


def test_ltu_refuses_a_single_forget_image():
    images = fixed_latents(torch.zeros(2, 4, 4, 4), np.array([1, 1]), 1.0)
    ltu = METHODS["ltu"](METHODS["ltu"].Options("ltu"), None)
    assert ltu.training_sets({"forget": images, "retain": images}, 0)["forget"] is images
    with pytest.raises(UserError, match="two forget images or more"):
        ltu.training_sets({"forget": images.part(np.array([True, False])), "retain": images}, 0)


def test_harmonising_projects_on_conflict_alone():
    forget, retain = [torch.tensor([1.0, 1.0])], [torch.tensor([-2.0, 0.0])]
    assert without_conflict(forget, retain)[0].tolist() == [0.0, 1.0]
    agreeing = [torch.tensor([2.0, 0.0])]
    assert torch.equal(without_conflict(forget, agreeing)[0], forget[0])


class LossOnly(Method):
    pass


def make_ltu(order, inner_lr=0.05, **options):
    module = perturb(make_transformer(layers=1).double(), scale=0.02)
    task = DiffusionTask(module, Schedule(), [0, 1, 2], [0], 12)
    method = METHODS["ltu"](
        METHODS["ltu"].Options("ltu", order=order, inner_lr=inner_lr, query_weight=0.7, harmonise="none", **options),
        task,
    )
    # float64 throughout, and a loss without the casts to float32 that the real ones make
    method.values = lambda side, batch: (method.task.predict(batch)[:, :4] - batch.noise).square().mean((1, 2, 3))
    method.start({}, dict(module.named_parameters()))
    return method, module


def double(batch):
    return Batch(*(v.double() if v.is_floating_point() else v for v in vars(batch).values()))


class TakeFrom:
    """A backward pass without a loop."""

    def __init__(self, method, module):
        self.method, self.module = method, module

    def __call__(self, side, batches, reduce=None):
        return self.whole(side, lambda: self.method.loss(side, batches[side]))

    def whole(self, side, loss):
        for parameter in self.module.parameters():
            parameter.grad = None
        value = loss()
        (value[0] if isinstance(value, tuple) else value).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.module.parameters()]


def meta_objective(method, module, support, query):
    """l(theta; S) + mu l(theta - a grad l(theta; S); Q), with theta put back."""
    loss = method.loss("forget", support)
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    kept = [p.detach().clone() for p in module.parameters()]
    with torch.no_grad():
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            if gradient is not None:
                parameter.sub_(method.options.inner_lr * gradient)
        value = loss + method.options.query_weight * method.loss("forget", query)
        for parameter, old in zip(module.parameters(), kept, strict=True):
            parameter.copy_(old)
    return value.item()


def directional(method, module, support, query, direction, step=1e-5):
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, way in zip(module.parameters(), direction, strict=True):
                parameter.add_(way, alpha=sign * step)
        values.append(meta_objective(method, module, support, query))
        with torch.no_grad():
            for parameter, way in zip(module.parameters(), direction, strict=True):
                parameter.add_(way, alpha=-sign * step)
    return (values[0] - values[1]) / (2 * step)


def test_ltus_second_order_gradient_against_finite_differences():
    method, module = make_ltu(2, inner_lr=0.5)
    support, query = double(make_batch(3)), double(make_batch(3, seed=9))
    gradient = method.second_order("forget", support, query, TakeFrom(method, module))
    first, _ = make_ltu(1, inner_lr=0.5)
    rough = first.first_order("forget", support, query, TakeFrom(first, first.task.module))
    generator = torch.Generator().manual_seed(2)
    errors = {"second": [], "first": []}
    for _ in range(3):
        direction = [
            g + g.norm() / g.numel() ** 0.5 * torch.randn(g.shape, generator=generator).double() for g in gradient
        ]
        wanted = directional(method, module, support, query, direction)
        for name, value in (("second", gradient), ("first", rough)):
            got = sum((g * d).sum().item() for g, d in zip(value, direction, strict=True))
            errors[name].append(abs(got - wanted) / abs(wanted))
    assert max(errors["second"]) < 1e-3  # the position embedding and time features stay float32
    assert min(errors["first"]) > 5 * max(errors["second"])  # the negative control: what first order leaves out


def test_ltus_first_order_gradient_is_that_of_both_points_and_puts_the_weights_back():
    method, module = make_ltu(1)
    support, query = double(make_batch(3)), double(make_batch(3, seed=9))
    before = weights_of(module)
    take = TakeFrom(method, module)
    gradient = method.first_order("forget", support, query, take)
    assert same(before, weights_of(module))
    tune = take("forget", {"forget": support})
    with torch.no_grad():
        for parameter, g in zip(module.parameters(), tune, strict=True):
            parameter.sub_(0.05 * g)
    test = take("forget", {"forget": query})
    for got, a, b in zip(gradient, tune, test, strict=True):
        torch.testing.assert_close(got, a + 0.7 * b)


def test_second_order_leaves_the_tied_module_as_it_was():
    method, module = make_ltu(2)
    before = weights_of(module)
    method.second_order("forget", double(make_batch(2)), double(make_batch(2, seed=1)), TakeFrom(method, module))
    assert same(before, weights_of(module))
    assert all(block.norm1.emb is module.transformer_blocks[0].norm1.emb for block in module.transformer_blocks)


def test_ltu_has_a_small_balanced_share_of_the_retain_set():
    from erase.data.latents import fixed_latents

    labels = torch.arange(90).remainder(3).numpy()
    images = fixed_latents(torch.zeros(90, 4, 8, 8), labels, 1.0)
    method = METHODS["ltu"](METHODS["ltu"].Options("ltu", retain_share=0.1), None)
    sets = {seed: method.training_sets({"forget": images, "retain": images}, seed) for seed in (0, 1)}
    chosen = sets[0]["retain"]
    assert sorted(chosen.labels.tolist()) == [0] * 3 + [1] * 3 + [2] * 3
    assert sets[0]["forget"] is images
    assert set(chosen.rows) != set(sets[1]["retain"].rows)


def test_ltu_s_share_is_of_images_and_a_mirrored_one_goes_with_its_own():
    from dataclasses import dataclass

    from erase.data.latents import LatentSet
    from erase.data.moments import Moments

    @dataclass(frozen=True)
    class Mirrored(Moments):
        images: int = 0

    labels = np.tile(np.repeat([0, 1], 50), 2)  # 100 images, and their mirror images after them
    images = LatentSet(Mirrored(torch.zeros(200, 4, 8, 8), torch.zeros(200, 4, 8, 8), 1.0, 100), np.arange(200), labels)
    method = METHODS["ltu"](METHODS["ltu"].Options("ltu", retain_share=0.1), None)
    chosen = method.training_sets({"forget": images, "retain": images}, 0)["retain"]
    assert len(chosen) == 20
    assert len(set(chosen.rows % 100)) == 10
    assert sorted(chosen.labels.tolist()) == [0] * 10 + [1] * 10


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "eupmu", "unlearn": {"forget": {"weight": 2.0}}, "optimizer": "shared"}, "weighs its two losses"),
        (
            {"method": "eupmu", "unlearn": {"forget": {"weight_schedule": "cosine"}}, "optimizer": "shared"},
            "weighs its two losses",
        ),
        ({"method": "eupmu", "optimizer": "dual"}, "eupmu takes one backward pass for both losses"),
        ({"method": "surgery", "unlearn": {"update": "alternating"}}, "surgery has joint updates only"),
        ({"method": {"name": "ltu", "order": 2}, "runtime": {"checkpointing": True}}, "no runtime.checkpointing"),
        ({"method": {"name": "ltu", "order": 2}, "runtime": {"micro_batch": 2}}, "no runtime.micro_batch"),
        (
            {"method": "salun", "unlearn": {"update": "joint", "retain": {"steps": 2}}},
            "a joint update takes one step a round",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        resolve(RunConfig(["3"], **asked))


def test_the_matrix_says_who_cannot_run_apart():
    for name in ("eupmu", "finetune", "retrain"):
        assert refusal(METHODS[name], "dual")
        assert refusal(METHODS[name], "dual_plus")
        assert refusal(METHODS[name], "shared") is None
    for name in ("ga", "random_label", "sa", "salun", "sfron", "surgery", "ltu"):
        assert not any(refusal(METHODS[name], policy) for policy in ("shared", "dual", "dual_plus"))
