"""The presets of the real model: protocols by name, and the published values that they state."""

import pytest

from erase.config import PROTOCOLS, RunConfig, as_mapping, parse_words
from erase.errors import UserError
from erase.files import shipped
from erase.methods import matrix
from erase.presets import config_hash, resolve, resolve_pretrain
from erase.table.config import load_table
from erase.table.plan import make_plan

from .test_sources import hub_cache, old_layout, pipeline


def preset(name, words=(), **asked):
    return resolve(RunConfig(["207"], preset=name, **asked), parse_words(words))


def how(config):
    return config.sample.sampler, config.sample.steps, config.sample.guidance_scale


def test_protocols_are_those_of_the_papers_and_a_fast_one():
    assert how(preset("imagenet256/sfron-dual")) == ("dpm++", 25, 1.5)
    for words in (["sample=paper"], ["sample.protocol=paper"]):
        assert how(preset("imagenet256/sfron-dual", words)) == ("ancestral", 250, 1.5)
    assert how(preset("imagenet256/sfron-dual", sample="paper")) == ("ancestral", 250, 1.5)
    assert preset("imagenet256/sfron-dual", ["sample=paper"]).sample.per_class == 512


def test_a_value_beside_a_protocol_s_name_wins_and_one_below_it_does_not():
    assert how(preset("imagenet256/sfron-dual", ["sample.steps=7", "sample=paper"])) == ("ancestral", 7, 1.5)
    assert how(preset("imagenet256/sfron-dual", ["sample=paper"], sample={"steps": 7})) == ("ancestral", 250, 1.5)
    assert how(preset("digits/sfron-dual", ["sample=fast"])) == ("dpm++", 25, 1.5)
    assert preset("imagenet256/sfron-dual", ["sample=paper", "sample.guidance_channels=3"]).sample.guidance_channels


def test_a_protocol_is_its_values_and_no_more():
    named, spelt = ["sample=paper"], [f"sample.{key}={value}" for key, value in PROTOCOLS["paper"].items()]
    assert config_hash(preset("digits/sfron-dual", named)) == config_hash(preset("digits/sfron-dual", spelt))
    assert "protocol" not in as_mapping(preset("digits/sfron-dual", named))["sample"]


def test_an_unknown_protocol_is_named():
    with pytest.raises(UserError, match=r"unknown sample\.protocol 'papre'; did you mean 'paper'"):
        preset("digits/sfron-dual", ["sample=papre"])


def test_a_recipe_takes_a_protocol_too():
    assert resolve_pretrain({"sample": {"steps": 20}}, {"sample": "paper"}).sample.steps == 250


def sides(config):
    forget, retain = config.unlearn.forget, config.unlearn.retain
    return config.unlearn.rounds, forget.lr, forget.weight, forget.weight_schedule, forget.clip, retain.lr, retain.clip


def test_sfron_is_as_published_under_either_policy():
    assert sides(preset("imagenet256/sfron-shared")) == (600, 1e-4, 1e-3, "constant", 1.0, 1e-4, None)
    assert sides(preset("imagenet256/sfron-dual")) == (500, 5e-5, 1.0, "cosine", 1.0, 5e-5, None)
    for name in ("imagenet256/sfron-shared", "imagenet256/sfron-dual", "imagenet512/sfron-dual"):
        config = preset(name)
        assert (config.method.ascent, config.method.gamma, config.method.fisher_samples) == ("ga", 1.0, 2000)
        assert config.optimizer.forget.weight_decay == config.optimizer.retain.weight_decay == 0


def test_salun_s_retain_weight_is_converted_from_a_sum_over_3072_values():
    assert preset("imagenet256/salun-shared").unlearn.retain.weight == pytest.approx(1e-3 * 3 * 32 * 32, rel=1e-2)


def test_every_method_that_can_run_has_a_preset_and_says_if_it_is_not_published():
    """All but retrain, which would be DiT's pretraining."""
    pairs = [(row["method"], policy) for row in matrix() for policy, why in row["policies"].items() if why is None]
    published = {("sfron", "shared"), ("sfron", "dual"), ("sa", "shared"), ("salun", "shared"), ("eupmu", "shared")}
    for method, policy in set(pairs) - {("retrain", "shared")}:
        config = preset(f"imagenet256/{method}-{policy}")
        assert (config.method.name, config.optimizer.policy) == (method, policy)
        assert config.score.classifier == "resnet34"
        text = (shipped("configs") / "imagenet256" / f"{method}-{policy}.yaml").read_text()
        assert "ot run here on the real" in text.replace("\n# ", " ")
        assert ("not published." in text.split("\n")[0]) == ((method, policy) not in published)


def test_retraining_has_no_preset_and_says_what_to_do():
    with pytest.raises(UserError, match="there is no preset imagenet512/retrain-shared; give your own settings by"):
        resolve(RunConfig(["207"], model="facebook/DiT-XL-2-512", method="retrain", optimizer="shared"))


NAMES = sorted(path.stem for path in (shipped("configs") / "imagenet256").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_512_is_256_in_less_memory(name):
    small, large = (as_mapping(preset(f"imagenet{side}/{name}")) for side in (256, 512))
    assert large["sample"].pop("block") < small["sample"].pop("block")
    assert large["runtime"].pop("micro_batch") < small["runtime"].pop("micro_batch")
    assert large["runtime"].pop("checkpointing")
    assert not small["runtime"].pop("checkpointing")
    assert small == large


def test_a_model_at_512_takes_the_preset_of_its_method(tmp_path):
    asked = RunConfig(["207"], model="facebook/DiT-XL-2-512", method="salun", optimizer="dual")
    assert resolve(asked).runtime.checkpointing


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The paper's table, with a tiny model at the hub id's place."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub_cache(tmp_path, lambda root: old_layout((pipeline(root), root)[1], names=False))
    return make_plan(load_table(shipped("configs") / "tables" / "paper-table2.yaml"))


def test_the_paper_s_table_is_five_classes_under_the_paper_s_protocol(table):
    rows = [(line.row, line.policy) for line in table.lines]
    assert [row for row in rows if row[0] == "sfron"] == [("sfron", "shared"), ("sfron", "dual")]
    for line in table.lines:
        assert [cell.forget for cell in line.cells] == [(89,), (207,), (270,), (279,), (360,)]
        config = resolve(line.request([89], 0, ""), line.settings)
        assert how(config) == ("ancestral", 250, 1.5)
        assert (config.sample.per_class, config.sample.retain_total) == (512, 10000)
        assert config.score.classifier == "resnet34"


def test_its_relabelling_row_is_the_preset_of_that_form(table):
    (line,) = [line for line in table.lines if line.row.startswith("salun,")]
    row, own = (
        as_mapping(config)
        for config in (
            resolve(line.request([89], 0, ""), line.settings),
            preset("imagenet256/salun-shared-relabel", ["sample=paper"], model="facebook/DiT-XL-2-256"),
        )
    )
    for part in ("method", "optimizer", "unlearn", "sample", "score"):
        assert row[part] == own[part]
