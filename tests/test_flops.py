"""Counts by formula against counts of the operations that run."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from erase.flops import forward_flops, vae_flops

from .helpers import make_transformer, make_vae
from .test_memory import XL


@pytest.mark.parametrize("layers", [1, 3])
def test_the_formula_counts_what_runs(layers):
    transformer, labels = make_transformer(layers=layers), torch.zeros(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transformer(torch.zeros(1, 4, 8, 8), timestep=labels, class_labels=labels)
    assert forward_flops(transformer.config) == counter.get_total_flops()


def test_xl_2_at_256_costs_what_its_paper_says():
    assert forward_flops(XL) == pytest.approx(2 * 118.64e9, rel=2e-3)
    assert 4.4 < forward_flops({**XL, "sample_size": 64}) / forward_flops(XL) < 4.5  # 525 Gflops in the paper


def test_a_vae_of_stable_diffusion():
    channels = (128, 256, 512, 512)
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=channels, layers_per_block=2, latent_channels=4, norm_num_groups=32,
        )  # fmt: skip
    counts = vae_flops(vae, 32)
    assert counts["decode"] == pytest.approx(0.62e12, rel=0.05)
    assert 0.3 < counts["encode"] / counts["decode"] < 0.6


def test_a_vae_is_counted_as_it_runs():
    vae = make_vae()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(torch.zeros(2, 4, 8, 8))
    assert 2 * vae_flops(vae, 8)["decode"] == counter.get_total_flops()
