"""Original DiT checkpoints against numbers of the original code (tests/data/dit_tiny_expected.npz)."""

import argparse
import collections
import os
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

import erase
from erase.config import DitRecipe
from erase.dit import TIME_KEY, build_transformer, dit_config
from erase.errors import UserError
from erase.original import from_original, position_table, read_checkpoint, to_original
from erase.sampling import denoise, guided_output

from .helpers import make_vae

DATA = Path(__file__).parent / "data"
CHECKPOINT = DATA / "dit_tiny_original.pt"


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "dit_tiny_expected.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture
def model():
    return erase.load_model(str(CHECKPOINT), num_heads=2)


def apart(ours, theirs):
    """Largest difference over the largest value: weights are random, and values grow to several hundred."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def forward(transformer, expected):
    with torch.no_grad():
        x, t, y = (expected[name] for name in "xty")
        return transformer(x, timestep=t, class_labels=y, return_dict=False)[0]


def denoised(model, expected, sampler, channels="3"):
    noise = iter(expected["ancestral_noise"])
    scale = float(expected["ancestral_cfg_scale"])
    how = {"guidance_scale": scale, "steps": 10, "sampler": sampler, "guidance_channels": channels}
    return denoise(model, expected["labels"].tolist(), expected["z"], lambda: next(noise), **how)


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    erase.load_model(str(CHECKPOINT), num_heads=2)
    assert torch.equal(before, torch.get_rng_state())


def test_the_forward_pass_is_the_original_s(model, expected):
    assert apart(forward(model.transformer, expected), expected["out"]) <= 1e-5


@pytest.mark.parametrize("wrong", ["time features", "heads"])
def test_the_forward_pass_hangs_on_time_features_and_heads(model, expected, wrong):
    """What diffusers computes with these weights, and another head count: negative controls."""
    if wrong == "heads":
        model = erase.load_model(str(CHECKPOINT), num_heads=4)
    else:
        model.transformer.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 1
    assert apart(forward(model.transformer, expected), expected["out"]) > 1e-2


def test_guidance_on_three_channels_is_the_original_s(model, expected):
    def guided(channels):
        scale = float(expected["cfg_scale_forward"])
        with torch.no_grad():
            return guided_output(model, expected["z"], torch.tensor(500), expected["labels"], scale, "fp32", channels)

    theirs = expected["cfg_out_t500"]
    assert apart(guided("3"), theirs) <= 1e-5
    whole = guided("all")
    assert apart(whole[:, :3], theirs[:, :3]) <= 1e-5
    assert apart(whole[:, 4:], theirs[:, 4:]) <= 1e-5
    assert apart(whole[:, 3:4], theirs[:, 3:4]) > 0.1


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_samplers_are_the_original_s(model, expected, sampler):
    assert apart(denoised(model, expected, sampler), expected[f"{sampler}_sample"]) <= 1e-3
    assert apart(denoised(model, expected, sampler, "all"), expected[f"{sampler}_sample"]) > 1e-2


def test_exported_tensors_are_bit_equal_and_in_order(model):
    stored = torch.load(CHECKPOINT, weights_only=True)
    ours = to_original(model.transformer)
    assert list(ours) == list(stored)
    assert all(torch.equal(ours[name], stored[name]) for name in stored)
    assert len({value.untyped_storage().data_ptr() for value in ours.values()}) == len(ours)


def test_the_position_table_takes_columns_first():
    table = position_table(32, 4)
    assert torch.equal(table[0, 1, :8], torch.sin(1 / 10000 ** (torch.arange(8, dtype=torch.float64) / 8)).float())
    assert torch.count_nonzero(table[0, 1, 16:24]) == 0  # the sines of row 0
    assert table[0, 4, 16] == table[0, 1, 0]


def test_a_saved_pack_keeps_the_original_s_numerics(model, expected, tmp_path):
    erase.save_model(model, tmp_path / "pack")
    loaded = erase.load_model(str(tmp_path / "pack"))
    assert loaded.key() == model.key()
    assert torch.equal(forward(loaded.transformer, expected), forward(model.transformer, expected))
    assert loaded.transformer.config.norm_eps == 1e-6
    erase.save_model(loaded, tmp_path / "again")
    assert erase.load_model(str(tmp_path / "again")).key() == model.key()
    assert "stock `DiTPipeline` opens" in (tmp_path / "again" / "README.md").read_text()


def test_stock_diffusers_opens_the_pack_and_draws_slightly_differently(model, expected, tmp_path):
    erase.save_model(model, tmp_path)
    stock = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "transformer")
    difference = apart(forward(stock, expected), expected["out"])
    assert 1e-2 < difference < 1


def test_a_model_made_anew_for_retraining_keeps_time_features_and_epsilon(model):
    from erase.dit import new_like, time_shift

    fresh = new_like(model.transformer, 0)
    assert time_shift(fresh) == fresh.transformer_blocks[1].norm1.emb.time_proj.downscale_freq_shift == 0
    assert dict(fresh.config)["num_attention_heads"] == 2
    assert fresh.config.out_channels == 8


@pytest.mark.parametrize("layout", ["ema", "model", "module.", "legacy", "train.py", "half", "safetensors"])
def test_every_wrapping_of_a_checkpoint_is_read(layout, model, tmp_path):
    stored = torch.load(CHECKPOINT, weights_only=True)
    wrong = {name: torch.zeros_like(value) for name, value in stored.items()}
    path = tmp_path / "dit.pt"
    if layout == "ema":
        torch.save({"ema": stored, "model": wrong}, path)
    elif layout == "model":
        torch.save({"model": {f"module.{name}": value for name, value in stored.items()}}, path)
    elif layout == "module.":
        torch.save(collections.OrderedDict((f"module.{name}", value) for name, value in stored.items()), path)
    elif layout == "legacy":
        torch.save(stored, path, _use_new_zipfile_serialization=False)
    elif layout == "train.py":
        optimizer = {"state": {}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
        torch.save({"model": wrong, "ema": stored, "opt": optimizer, "args": argparse.Namespace(lr=1e-4)}, path)
    elif layout == "half":
        torch.save({name: value.half().float() for name, value in stored.items()}, tmp_path / "rounded.pt")
        torch.save({name: value.half() for name, value in stored.items()}, path)
        model = erase.load_model(str(tmp_path / "rounded.pt"), num_heads=2)
    else:
        from safetensors.torch import save_file

        path = tmp_path / "dit.safetensors"
        save_file(stored, path)
    loaded = erase.load_model(str(path), num_heads=2)
    assert loaded.key() == model.key()
    assert {p.dtype for p in loaded.transformer.parameters()} == {torch.float32}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path, legacy):
    stored = torch.load(CHECKPOINT, weights_only=True)
    torch.save({**stored, "x": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"bomb\.pt is damaged or holds more than tensors; it was not loaded"):
        erase.load_model(str(tmp_path / "bomb.pt"), num_heads=2)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "bomb.pt", weights_only=False)  # negative control: the bomb is live
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "a list", "another net", "integers"])
def test_files_that_are_no_checkpoint_are_named(damage, tmp_path):
    path = tmp_path / "bad.pt"
    content = CHECKPOINT.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}.get(damage, b""))
    stored = torch.load(CHECKPOINT, weights_only=True)
    if damage == "a list":
        torch.save([1, 2], path)
    elif damage == "another net":
        torch.save({"conv.weight": torch.zeros(3)}, path)
    elif damage == "integers":
        torch.save({name: value.long() for name, value in stored.items()}, path)
    with pytest.raises(UserError, match=r"bad\.pt") as raised:
        erase.load_model(str(path), num_heads=2)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.attn.qkv.bias"), r"blocks\.1\.attn\.qkv\.bias is missing"),
        (lambda s: s.update({"final_layer.linear.weight": torch.zeros(3, 3)}), r"linear\.weight is of shape \(3, 3\)"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"holds weights that no DiT has: extra\.weight"),
        (lambda s: s.pop("pos_embed"), "pos_embed"),
        (lambda s: s["pos_embed"].add_(0.01), "pos_embed is not the table"),
        (lambda s: s.pop("blocks.0.mlp.fc1.bias"), "fits no DiT"),
    ],
)
def test_weights_that_fit_no_dit_are_named(change, message, tmp_path):
    stored = torch.load(CHECKPOINT, weights_only=True)
    change(stored)
    torch.save(stored, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=message):
        erase.load_model(str(tmp_path / "odd.pt"), num_heads=2)


def test_the_head_count_is_asked_for_where_the_width_does_not_tell():
    with pytest.raises(UserError, match=r"a width of 32 is none of S, B, L, XL; .* model\.num_heads=N"):
        erase.load_model(str(CHECKPOINT))
    with pytest.raises(UserError, match="num_heads=5 does not divide the width of 32"):
        erase.load_model(str(CHECKPOINT), num_heads=5)


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1152, 16)])
def test_heads_follow_from_the_published_widths(width, heads):
    with torch.device("meta"):
        small = build_transformer(dit_config(DitRecipe(layers=1, width=width, heads=heads, label_slots=3), 4, 4))
    tensors = {name: torch.zeros(1).expand(value.shape) for name, value in _meta_original(small).items()}
    from erase.original import config_of

    found = config_of(tensors)
    assert found["num_attention_heads"] == heads
    assert found["attention_head_dim"] == width // heads
    assert found[TIME_KEY] == 0
    assert config_of(tensors, 4)["num_attention_heads"] == 4


def _meta_original(transformer):
    from erase.original import weight_map

    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    rows = {name: (sum(len(p) for p in parts), *parts[0].shape[1:]) for name, parts in weight_map(transformer)}
    return {
        "pos_embed": position_table(width, 2),
        **{name: torch.empty(shape, device="meta") for name, shape in rows.items()},
    }


def test_dit_xl_2_has_as_many_parameters_as_published():
    """With one embedder; diffusers' own 28 make 749,826,464."""
    with torch.device("meta"):
        config = dit_config(DitRecipe(layers=28, width=1152, heads=16, patch=2, label_slots=1000), 4, 32)
        tied = build_transformer(config)
        stock = diffusers.DiTTransformer2DModel(**config)
    count = [sum(p.numel() for p in net.parameters()) for net in (tied, stock)]
    assert count == [674_834_720, 749_826_464]
    shapes = _meta_original(tied)
    assert sum(value.numel() for value in shapes.values()) == 674_834_720 + shapes["pos_embed"].numel()


def test_without_a_vae_it_can_neither_sample_nor_encode_and_with_one_it_can(model, tmp_path):
    assert model.vae is None
    with pytest.raises(UserError, match=r"no VAE, so it can neither sample nor encode; give .* model\.vae=FOLDER"):
        erase.sample(model, [0], steps=1)
    with pytest.raises(UserError, match="no VAE"):
        _ = model.image_size
    make_vae().save_pretrained(tmp_path / "vae")
    for folder in (tmp_path, tmp_path / "vae"):  # a pipeline's folder, or the VAE's own
        loaded = erase.load_model(str(CHECKPOINT), vae=str(folder), num_heads=2)
        assert erase.sample(loaded, [0, 6, 7], steps=2).shape == (3, 16, 16, 3)


def test_a_vae_of_other_latents_is_refused(tmp_path):
    from erase.config import VaeRecipe
    from erase.dit import new_vae

    new_vae(VaeRecipe(channels=(8,), groups=4, latent_channels=3), 16, 0).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the VAE makes 3 latent channels and the transformer takes 4"):
        erase.load_model(str(CHECKPOINT), vae=str(tmp_path), num_heads=2)


def test_labels_of_a_checkpoint():
    assert erase.load_model(str(CHECKPOINT), num_heads=2).labels == {label: str(label) for label in range(7)}


def test_reading_maps_the_file_and_from_original_copies_it():
    tensors = read_checkpoint(CHECKPOINT)
    transformer = from_original(tensors, 2)
    before = {name: value.clone() for name, value in tensors.items()}
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.zero_()
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)
