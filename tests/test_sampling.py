"""Sampling against diffusers' own pipeline and schedulers."""

import contextlib
import copy
import dataclasses
import os

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import erase
from erase.config import SampleConfig, build
from erase.dit import embedded_once, untied_copy
from erase.errors import UserError
from erase.rng import image_seed
from erase.sampling import decode, image_path, make_scheduler, sample_folder, sample_latents

from .helpers import make_model

LABELS, SEEDS = [3, 0, 999, 3], [11, 12, 13, 2**62 + 1]


@pytest.fixture(scope="module")
def model():
    """1000 label slots: DiTPipeline fixes the null label at 1000."""
    return make_model(label_slots=1000, classes=range(1000))


def levels(first, second):
    """The largest difference in levels of 255."""
    return np.abs(first.astype(int) - second.astype(int)).max()


def test_images_equal_those_of_stock_ditpipeline(model, tmp_path):
    erase.save_model(model, tmp_path / "pack")
    pipe = diffusers.DiTPipeline.from_pretrained(tmp_path / "pack")
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    pictures = pipe(LABELS, guidance_scale=1.5, generator=generators, num_inference_steps=5).images
    stock = np.stack([np.asarray(picture) for picture in pictures])
    ours = erase.sample(model, LABELS, SEEDS, guidance_scale=1.5, steps=5)
    assert ours.shape == stock.shape == (4, 16, 16, 3)
    assert ours.dtype == np.uint8
    assert levels(ours, stock) <= 2
    assert ours.std() > 10  # not all black or white
    for other in (
        erase.sample(model, LABELS, SEEDS[::-1], guidance_scale=1.5, steps=5),
        erase.sample(model, LABELS, SEEDS, guidance_scale=4.0, steps=5),
        erase.sample(model, LABELS, SEEDS, guidance_scale=1.5, steps=6),
    ):
        assert levels(other, stock) > 2


@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "ancestral"])
def test_an_image_does_not_depend_on_its_batch_mates(model, sampler):
    together = erase.sample(model, LABELS, SEEDS, steps=4, sampler=sampler)
    for row, (label, seed) in enumerate(zip(LABELS, SEEDS, strict=True)):
        alone = erase.sample(model, [label], [seed], steps=4, sampler=sampler)
        assert levels(alone[0], together[row]) <= 1
    assert levels(together[0], together[3]) > 10  # the same label, another seed


def test_the_label_matters(model):
    first, second = (sample_latents(model, [label], [0], steps=3) for label in (1, 2))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "ancestral"])
def test_sampling_is_repeatable_and_leaves_the_global_generator_alone(model, sampler):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sample_latents(model, [1, 2], [5, 6], steps=3, sampler=sampler)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, sample_latents(model, [1, 2], [5, 6], steps=3, sampler=sampler))
    assert first.isfinite().all()


def latents_by_hand(model, labels, seeds, scale, steps, scheduler, ancestral=False):
    """A plain loop over a diffusers scheduler, guidance by two separate calls of the model."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=generator) for generator in generators])
    classes = torch.tensor(labels)
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            conditional, null = (
                model.transformer(latents, timestep=t.expand(len(labels)), class_labels=c, return_dict=False)[0]
                for c in (classes, torch.full_like(classes, model.num_classes))
            )
            eps = null[:, :4] + scale * (conditional[:, :4] - null[:, :4])
            if ancestral:
                both = torch.cat([eps, conditional[:, 4:]], dim=1)
                latents = scheduler.step(both, t, latents, generator=generators).prev_sample
            else:
                latents = scheduler.step(eps, t, latents).prev_sample
    return latents


def test_guidance_of_one_is_the_conditional_model(model):
    ours = sample_latents(model, [3, 5], [0, 1], guidance_scale=1.0, steps=4)
    theirs = latents_by_hand(model, [3, 5], [0, 1], 1.0, 4, make_scheduler("dpm++"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_guidance_uses_the_null_label_of_a_model_with_other_slots():
    small = make_model(label_slots=12)
    ours = sample_latents(small, [3, 5], [0, 1], guidance_scale=2.5, steps=4)
    theirs = latents_by_hand(small, [3, 5], [0, 1], 2.5, 4, make_scheduler("dpm++"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_ddim_is_diffusers(model):
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="leading"
    )
    ours = sample_latents(model, [3, 5], [0, 1], guidance_scale=1.5, steps=4, sampler="ddim")
    theirs = latents_by_hand(model, [3, 5], [0, 1], 1.5, 4, scheduler)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("steps", [3, 8])
def test_ancestral_is_diffusers_ddpm_with_learned_variance(model, steps):
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="linspace",
        variance_type="learned_range",
    )  # fmt: skip
    ours = sample_latents(model, [3, 5], [0, 1], guidance_scale=1.5, steps=steps, sampler="ancestral")
    theirs = latents_by_hand(model, [3, 5], [0, 1], 1.5, steps, scheduler, ancestral=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_samplers_start_at_the_last_timestep_and_reach_the_first():
    for sampler, first in (("dpm++", 999), ("ddim", 900), ("ancestral", 999)):
        scheduler = make_scheduler(sampler)
        scheduler.set_timesteps(10)
        assert scheduler.timesteps[0] == first
        assert scheduler.init_noise_sigma == 1.0
        assert len(scheduler.timesteps) == 10


def test_decoding_in_parts_is_decoding_at_once(model):
    latents = torch.randn(103, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = decode(model, latents)
    assert whole.shape == (103, 16, 16, 3)
    assert levels(whole[101:].numpy(), decode(model, latents[101:]).numpy()) <= 1


def test_null_is_a_label_and_no_labels_are_no_images(model):
    assert erase.sample(model, [1000], steps=1).shape == (1, 16, 16, 3)
    assert erase.sample(model, [], steps=1).shape == (0, 16, 16, 3)


@pytest.mark.parametrize("label", [-1, 1001])
def test_labels_outside_the_model_are_refused(model, label):
    with pytest.raises(UserError, match=rf"label {label} is not in 0 \.\. 1000"):
        erase.sample(model, [0, label], steps=1)


def test_seeds_of_another_number_are_refused(model):
    with pytest.raises(UserError, match="2 labels need as many seeds, not 3"):
        erase.sample(model, [0, 1], [0, 1, 2], steps=1)


@pytest.mark.parametrize("scale", [0.99, 0.0, -1.0, float("nan")])
def test_a_guidance_scale_below_one_is_refused_where_ditpipeline_takes_none(model, scale):
    with pytest.raises(UserError, match="guidance_scale must be 1"):
        erase.sample(model, [1], [0], guidance_scale=scale, steps=2)
    with pytest.raises(UserError, match="guidance_scale must be"):
        build(SampleConfig, {"guidance_scale": scale})


def test_without_learned_variance_there_is_no_ancestral_sampling(model, tmp_path):
    plain = dataclasses.replace(model, transformer=copy.deepcopy(model.transformer))
    plain.transformer.register_to_config(out_channels=4)
    with pytest.raises(
        UserError, match="the ancestral sampler needs a model with learned variance; take dpm\\+\\+ or ddim"
    ):
        erase.sample(plain, [1], [0], steps=2, sampler="ancestral")


def test_unknown_samplers_are_refused(model):
    with pytest.raises(UserError, match=r"unknown sampler 'euler'; known: dpm\+\+, ddim, ancestral"):
        erase.sample(model, [0], steps=1, sampler="euler")


def test_unknown_channels_of_guidance_are_refused(model):
    with pytest.raises(UserError, match="unknown guidance_channels '2'; known: all, 3"):
        erase.sample(model, [0], steps=1, guidance_channels="2")


def test_the_precision_is_the_asked_one_and_auto_is_fp32_on_a_cpu(model):
    drawn = {p: sample_latents(model, [1, 2], [5, 6], steps=3, precision=p) for p in ("auto", "fp32", "bf16")}
    assert torch.equal(drawn["auto"], drawn["fp32"])
    assert torch.equal(drawn["auto"], sample_latents(model, [1, 2], [5, 6], steps=3))
    assert not torch.equal(drawn["bf16"], drawn["fp32"])


CONFIG = SampleConfig(per_class=5, steps=2, block=2)


def stamps(folder):
    return {str(path.relative_to(folder)): os.stat(path).st_mtime_ns for path in folder.rglob("*.png")}


def test_a_folder_holds_every_image_and_each_is_the_one_of_its_seed(model, tmp_path):
    sample_folder(model, tmp_path, CONFIG, [2, 7], "test")
    assert sorted(stamps(tmp_path)) == [f"{c:04d}/{i:05d}.png" for c in (2, 7) for i in range(5)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"]
    with Image.open(image_path(tmp_path, 7, 3)) as opened:
        held = np.asarray(opened)
    assert levels(held, erase.sample(model, [7], [image_seed(0, 7, 3)], 1.5, 2)[0]) <= 1


def test_only_missing_files_are_made(model, tmp_path):
    sample_folder(model, tmp_path, CONFIG, [2, 7], "test")
    before = {name: (tmp_path / name).read_bytes() for name in stamps(tmp_path)}
    for name in before:
        os.utime(tmp_path / name, ns=(1, 1))
    (tmp_path / "0002" / "00003.png").unlink()
    sample_folder(model, tmp_path, CONFIG, [2, 7], "test")
    made = {name for name, stamp in stamps(tmp_path).items() if stamp != 1}
    assert made == {"0002/00003.png"}
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_files_do_not_depend_on_which_classes_are_made(model, tmp_path):
    sample_folder(model, tmp_path / "a", CONFIG, [2, 7], "test")
    sample_folder(model, tmp_path / "b", CONFIG, [7], "test")
    for number in range(5):
        first, second = (image_path(tmp_path / side, 7, number).read_bytes() for side in "ab")
        assert first == second


def test_the_sampling_seed_changes_every_image(model, tmp_path):
    sample_folder(model, tmp_path / "a", CONFIG, [2], "test")
    sample_folder(model, tmp_path / "b", dataclasses.replace(CONFIG, seed=1), [2], "test")
    for number in range(5):
        first, second = (image_path(tmp_path / side, 2, number).read_bytes() for side in "ab")
        assert first != second


def test_the_shared_embedder_runs_once_a_forward_pass_and_changes_no_bit(model, monkeypatch):
    embedder = model.transformer.transformer_blocks[0].norm1.emb
    calls = []
    handle = embedder.time_proj.register_forward_hook(lambda *_: calls.append(1))
    once = sample_latents(model, LABELS, SEEDS, steps=3)
    assert len(calls) == 3
    assert "forward" not in vars(embedder)
    monkeypatch.setattr("erase.sampling.embedded_once", lambda _: contextlib.nullcontext())
    each = sample_latents(model, LABELS, SEEDS, steps=3)
    handle.remove()
    assert len(calls) == 3 + 3 * (len(model.transformer.transformer_blocks) + 1)
    assert torch.equal(once, each)


def test_embedders_of_their_own_all_run(model):
    untied = untied_copy(model.transformer)
    untied.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight.data += 1
    other = dataclasses.replace(model, transformer=untied)
    inputs = torch.zeros(1, 4, 8, 8), torch.tensor([7]), torch.tensor([1])
    with torch.no_grad():
        plain = untied(inputs[0], timestep=inputs[1], class_labels=inputs[2]).sample
        with embedded_once(untied):
            assert torch.equal(untied(inputs[0], timestep=inputs[1], class_labels=inputs[2]).sample, plain)
    assert not torch.equal(sample_latents(other, [1], [0], steps=2), sample_latents(model, [1], [0], steps=2))
