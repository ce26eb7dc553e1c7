"""Settings: what is refused, with which words, and what is kept."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest
import yaml

from erase import presets
from erase.config import (
    ObjectiveConfig,
    PretrainConfig,
    ResolvedConfig,
    RunConfig,
    SampleConfig,
    UnlearnConfig,
    VaeRecipe,
    as_mapping,
    build,
    changed,
    changes,
    differences,
    merge,
    parse_words,
)
from erase.errors import UserError
from erase.files import shipped
from erase.methods import METHODS
from erase.presets import config_hash, output_folder, resolve, resolve_pretrain, with_classes
from erase.table.config import TableConfig, nested

PRESETS = sorted(path for path in shipped("configs").rglob("*.yaml") if path.parent.name != "tables")


def fault(cls, values):
    with pytest.raises(UserError) as raised:
        build(cls, values)
    text = str(raised.value)
    assert text.startswith("config: ")
    assert "\n" not in text
    return text


def test_an_empty_mapping_gives_the_defaults():
    assert build(UnlearnConfig, {}) == UnlearnConfig()
    assert build(PretrainConfig, {}) == PretrainConfig()


def test_unknown_keys_are_named_with_the_nearest():
    assert "unknown key 'forget.btach_size'; did you mean 'forget.batch_size'" in fault(
        UnlearnConfig, {"forget": {"btach_size": 3}}
    )
    assert "unknown key 'xyzzy'; known: " in fault(UnlearnConfig, {"xyzzy": 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": "many"}, "steps must be a whole number, not 'many'"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"steps": None}, "steps must be a whole number, not None"),
        ({"steps": [1]}, "steps must be a whole number, not [1]"),
        ({"lr": "nan"}, "lr must be a finite number, not 'nan'"),
        ({"lr": ".inf"}, "lr must be a finite number, not '.inf'"),
        ({"lr": float("inf")}, "lr must be a finite number, not inf"),
        ({"lr": {}}, "lr must be a finite number, not {}"),
        ({"lr_schedule": 3}, "lr_schedule must be one of constant, cosine, not 3"),
        ({"lr_schedule": "cosin"}, "must be one of constant, cosine, not 'cosin'; did you mean 'cosine'?"),
        ({"lr_schedule": True}, "lr_schedule must be text, not True"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"clip": 0}, "clip must be above 0, not 0"),
        ({"lr": -1e-9}, "lr must be at least 0, not -1e-09"),
    ],
)
def test_wrong_values_are_refused(values, words):
    assert words in fault(ObjectiveConfig, values)


def test_bounds_are_inclusive_on_both_sides():
    assert build(SampleConfig, {"steps": 1000}).steps == 1000
    assert build(SampleConfig, {"steps": 1}).steps == 1
    assert "steps must be at least 1 and at most 1000, not 1001" in fault(SampleConfig, {"steps": 1001})


def test_sections_must_be_sections():
    assert "forget must be a section, not 3" in fault(UnlearnConfig, {"forget": 3})
    assert "forget must be a section, not None" in fault(UnlearnConfig, {"forget": None})
    assert "the config must be a section, not []" in fault(UnlearnConfig, [])


def test_all_faults_are_reported_at_once():
    text = fault(UnlearnConfig, {"rounds": -1, "forget": {"lr": "x", "nope": 1}, "retain": {"clip": -2}, "zzz": 0})
    for words in ("rounds must be", "forget.lr must be", "'forget.nope'", "retain.clip must be", "'zzz'"):
        assert words in text
    assert text.count(";") >= 4


def test_numbers_written_as_text_are_numbers():
    """YAML 1.1 reads 1e-4 as text."""
    assert yaml.safe_load("1e-4") == "1e-4"
    built = build(ObjectiveConfig, {"lr": "1e-4", "steps": "3", "clip": "1e2"})
    assert (built.lr, built.steps, built.clip) == (1e-4, 3, 100.0)
    assert type(built.steps) is int
    assert type(build(ObjectiveConfig, {"lr": 1}).lr) is float
    assert build(ObjectiveConfig, {"steps": 2.0}).steps == 2


@pytest.mark.parametrize("text", ["1e3", "1000.0"])
def test_whole_numbers_in_scientific_notation(text):
    assert build(ObjectiveConfig, {"steps": text}).steps == 1000


def test_large_whole_numbers_keep_their_last_digit():
    assert build(SampleConfig, {"seed": 2**62 + 1}).seed == 2**62 + 1
    assert build(SampleConfig, {"seed": str(2**62 + 1)}).seed == 2**62 + 1


def test_null_is_a_value_only_where_it_means_something():
    assert build(ObjectiveConfig, {"clip": None}).clip is None
    assert "weight must be" in fault(ObjectiveConfig, {"weight": None})


def test_lists_become_tuples_of_the_right_kind():
    assert build(VaeRecipe, {"channels": [8, "16"]}).channels == (8, 16)
    assert build(PretrainConfig, {"exclude": [3, "cat"]}).exclude == ("3", "cat")
    assert build(PretrainConfig, {"exclude": 3}).exclude == ("3",)
    assert "channels must be a list, not {}" in fault(VaeRecipe, {"channels": {}})
    assert "channels must be a whole number, not 'x'" in fault(VaeRecipe, {"channels": [8, "x"]})


def test_as_mapping_comes_back():
    config = build(PretrainConfig, {"vae": {"channels": [8, 16]}, "exclude": ["3"], "dit": {"lr": 0.5}})
    plain = as_mapping(config)
    assert plain["vae"]["channels"] == [8, 16]
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert build(PretrainConfig, yaml.safe_load(yaml.safe_dump(plain))) == config


def every_field(cls):
    """All fields of a config and of its sections, with their types."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield f"{cls.__name__}.{field.name}", hints[field.name], field.metadata
        inside = [hints[field.name], *typing.get_args(hints[field.name])]
        for kind in inside:
            if dataclasses.is_dataclass(kind):
                yield from every_field(kind)


CONFIGS = [ResolvedConfig, PretrainConfig, TableConfig, *(method.Options for method in METHODS.values())]


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_field_says_what_it_is_and_what_it_may_be(cls):
    for name, kind, metadata in every_field(cls):
        assert metadata["text"].strip(), name
        kinds = {kind, *typing.get_args(kind)}
        if int in kinds and not metadata.get("choices"):
            assert metadata["low"] is not None, name
            assert metadata["high"] is not None, name
        if float in kinds:
            assert (metadata["low"], metadata["above"]) != (None, None), name


def test_fields_names_and_combinations_are_told_at_once():
    words = parse_words(
        ["unlearn.rounds=-1", "sample.protocol=nope", "data=[1]", "unlearn.zzz=1", "unlearn.update=joint",
         "unlearn.forget.steps=2", "seed=x"]
    )  # fmt: skip
    with pytest.raises(UserError) as raised:
        resolve(RunConfig(["1"], preset="digits/sfron-dual"), words)
    text = str(raised.value)
    for part in ("unlearn.rounds must be", "unknown sample.protocol 'nope'", "data must be a section or a name",
                 "unknown key 'unlearn.zzz'", "a joint update takes one step a round", "seed must be"):  # fmt: skip
        assert part in text
    assert text.count("config: ") == 1
    assert "\n" not in text
    with pytest.raises(UserError) as raised:
        resolve(RunConfig(["1"], preset="nope/nope", method="nope"), {"unlearn": {"rounds": -1}})
    assert all(part in str(raised.value) for part in ("unknown preset", "unknown method 'nope'", "unlearn.rounds must"))


def test_a_long_list_of_faults_is_cut():
    text = fault(UnlearnConfig, {f"zz{i}": 1 for i in range(30)})
    assert text.endswith("; and 20 more")
    assert text.count("unknown key") == 10


def test_huge_values_are_named_in_few_words():
    nested = [1]
    for _ in range(30):
        nested = [nested] * 30
    text = fault(UnlearnConfig, {"rounds": nested, "finish": 10**5000, "forget": {"lr": "9" * 10**6}, "x" * 10**5: 1})
    assert len(text) < 2000


def test_defaults_lie_within_their_own_limits():
    for cls in (PretrainConfig, UnlearnConfig, SampleConfig, *(method.Options for method in METHODS.values())):
        assert build(cls, as_mapping(cls())) == cls()


def test_parse_words_nests_and_reads_yaml():
    words = ["a.b.c=1e-4", "a.b.d=[1, 2]", "a.e=text", "f=", "g=true", "h=x=y"]
    assert parse_words(words) == {
        "a": {"b": {"c": "1e-4", "d": [1, 2]}, "e": "text"},
        "f": None,
        "g": True,
        "h": "x=y",
    }
    assert parse_words([]) == {}
    assert parse_words(["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize("words", [["method=sfron", "method.gamma=2"], ["method.gamma=2", "method=sfron"]])
def test_a_plain_value_and_settings_of_its_section_combine(words):
    assert parse_words(words) == {"method": {"name": "sfron", "gamma": 2}}
    assert resolve(request(), parse_words(words)).method.gamma == 2
    assert resolve(request(preset=None, method={"gamma": 2}), parse_words(["method=sfron"])).method.gamma == 2


def test_the_last_of_two_plain_values_counts():
    assert parse_words(["method=a", "method.gamma=2", "method=b"]) == {"method": {"name": "b", "gamma": 2}}
    assert parse_words(["data=a", "data=b"]) == {"data": "b"}  # pretrain's data is no section


@pytest.mark.parametrize("word", ["rounds", "=3", " =3"])
def test_words_that_are_no_settings(word):
    with pytest.raises(UserError, match=r"is no setting; write key=value"):
        parse_words([word])


@pytest.mark.parametrize("word", ["a=[1", "a={", "a='x"])
def test_words_whose_value_is_no_yaml(word):
    with pytest.raises(UserError, match="not valid YAML"):
        parse_words([word])


def test_merge_goes_section_by_section_and_changes_neither():
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    over = {"a": {"c": {"f": 4}}, "e": {"g": 5}}
    assert merge(base, over) == {"a": {"b": 1, "c": {"d": 2, "f": 4}}, "e": {"g": 5}}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert over == {"a": {"c": {"f": 4}}, "e": {"g": 5}}


def test_differences_name_the_dotted_keys():
    first = {"a": {"b": 1, "c": 2}, "d": [1], "e": 0}
    assert differences(first, first) == []
    assert differences(first, {"a": {"b": 1, "c": 3}, "d": [2], "f": 1}) == ["a.c", "d", "e", "f"]
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a"]


def test_a_config_written_before_a_field_was_there_is_the_same_config():
    written = as_mapping(SampleConfig(steps=7))
    del written["guidance_channels"]
    assert changes(written, SampleConfig(steps=7)) == []
    assert changes(written, SampleConfig(steps=7, guidance_channels="3")) == ["guidance_channels"]
    assert changes(written, SampleConfig(steps=8)) == ["steps"]
    assert changes({**written, "gone": 1}, SampleConfig(steps=7)) == ["gone"]


def request(**asked):
    return RunConfig(**{"forget": ["3"], "preset": "digits/sfron-dual", **asked})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_shipped_preset_resolves(path):
    values = yaml.safe_load(path.read_text())
    name = path.relative_to(shipped("configs")).with_suffix("").as_posix()
    assert "forget" not in values, "never a class in a preset"
    if "vae" in values:
        assert resolve_pretrain(values).dit.label_slots == 1000  # else DiTPipeline's null label is wrong
    else:
        config = resolve(request(preset=name))
        method, policy, *_ = path.stem.split("-")
        assert (config.method.name, config.optimizer.policy) == (method, policy)
        assert config.sample.sampler in ("dpm++", "ancestral")


@pytest.fixture
def configured(tmp_path):
    """A run's config from a file of this content."""

    def build_from(text, words=None):
        (tmp_path / "mine.yaml").write_text(text)
        return resolve(RunConfig(["3"], config=str(tmp_path / "mine.yaml")), words)

    return build_from


def test_a_config_stands_over_its_base(configured):
    base = resolve(request())
    mine = configured("base: digits/sfron-dual\nunlearn: {rounds: 7, forget: {lr: 1.0e-5}}\n")
    assert (mine.unlearn.rounds, mine.unlearn.forget.lr) == (7, 1e-5)
    assert mine.unlearn.forget.clip == base.unlearn.forget.clip == 1.0
    assert (mine.method, mine.sample) == (base.method, base.sample)
    assert configured("base: imagenet512/salun-dual\n") == resolve(request(preset="imagenet512/salun-dual"))


def test_another_method_over_a_base_does_not_take_its_options(configured):
    mine = configured("base: digits/sfron-dual\nmethod: ga\nsample: paper\n")
    assert (mine.method.name, mine.method.ascent) == ("ga", type(mine.method)().ascent)
    assert (mine.sample.steps, mine.sample.per_class) == (250, resolve(request(sample="paper")).sample.per_class)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: digits/sfron-daul\n", r"unknown preset 'digits/sfron-daul'; did you mean 'digits/sfron-dual'"),
        ("base: 3\n", "base must be the name of a preset, not 3"),
        ("base: [digits/sfron-dual]\n", "base must be the name of a preset"),
        ("base: digits/sfron-dual\nunlearn: 3\n", "unlearn must be a section or a name, not 3"),
        ("base: digits/sfron-dual\nunlern: {rounds: 1}\n", "unknown key 'unlern'"),
        ("base: digits/pretrain\n", "unknown key"),
    ],
)
def test_a_wrong_base_is_named(configured, text, message):
    with pytest.raises(UserError, match=message):
        configured(text)


def test_a_recipe_stands_over_its_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: digits/pretrain\ndata: photos\ndit: {steps: 7}\nsample: paper\n")
    mine = resolve_pretrain(presets.base_values(None, str(tmp_path / "mine.yaml"), ""))
    base = resolve_pretrain(presets.load_preset("digits/pretrain"))
    assert (mine.data, mine.dit.steps, mine.sample.steps) == ("photos", 7, 250)
    assert mine.vae == base.vae
    assert dataclasses.replace(mine.dit, steps=base.dit.steps) == base.dit
    (tmp_path / "mine.yaml").write_text("base: digits/pretrain\n")
    assert resolve_pretrain(presets.base_values(None, str(tmp_path / "mine.yaml"), "")) == base


def test_bases_in_a_circle_are_refused(monkeypatch):
    files = {"a": {"base": "b"}, "b": {"base": "a"}}
    monkeypatch.setattr(presets, "_read_preset", files.__getitem__)
    with pytest.raises(UserError, match="base: a -> b -> a is a circle"):
        presets.load_preset("a")


def held_out(row):
    """The line of a digits preset that says what it does on classes and seeds that no rate was chosen on."""
    fa, ra, fid = (row["over_classes"][key] for key in ("fa", "ra", "fid"))
    spread = "" if fa["std"] is None else f" ± {100 * fa['std']:.1f}"
    many = "seeds 2 and 3" if fa["n"] == 2 else "seed 2"
    text = f"# On classes 5 to 9, {many} (digits-methods): FA {100 * fa['mean']:.1f}{spread} %, "
    return text + f"RA {100 * ra['mean']:.1f} %, FID {fid['mean']:.2f}."


@pytest.mark.parametrize("path", sorted((shipped("configs") / "digits").glob("*-*.yaml")), ids=lambda path: path.stem)
def test_a_digits_preset_says_what_the_table_of_all_methods_found(path):
    rows = json.loads((Path(__file__).parent.parent / "docs/results/digits/digits-methods.json").read_text())["rows"]
    (row,) = [row for row in rows if f"{row['row']}-{row['optimizer']}" == path.stem]
    assert row["counts"]["done"] == row["counts"]["cells"]
    assert f"\n{held_out(row)}\n" in path.read_text()


def searched(table):
    found = json.loads((Path(__file__).parent.parent / f"docs/results/digits/{table}.json").read_text())["rows"]
    return {f"{row['method']}-{row['optimizer']}": row for row in found if row["row"] == row["method"]}  # no variants


def chosen(name):
    """The first stage's choice where it is good on the second stage's classes too, else the second stage's."""
    first, second = (searched(table)[name] for table in ("digits-search", "digits-search-wide"))
    stays = any(trial["good"] and trial["trial"] == first["settings"] for trial in second["trials"])
    return first["settings"] if stays else second["settings"]


@pytest.mark.parametrize("name", searched("digits-search"))
def test_a_digits_preset_is_what_the_search_chose(name):
    asked = request(preset=f"digits/{name}")
    assert resolve(asked, nested(chosen(name))) == resolve(asked)


@pytest.mark.parametrize("name", searched("digits-search-wide"))
def test_a_digits_preset_says_what_the_search_found(name):
    trials = searched("digits-search-wide")[name]["trials"]
    (trial,) = [trial for trial in trials if trial["trial"] == chosen(name)]
    fa, drop = 100 * trial["worst_fa"], 100 * trial["worst_ra_drop"]
    down = f"RA at most {drop:.1f} points down" if drop > 0 else "RA no lower"
    text = (shipped("configs") / "digits" / f"{name}.yaml").read_text()
    found = f"FA at most {fa:.0f} %, {down}, FID {trial['mean_fid']:.2f} (original 1.64)."
    assert text.startswith(f"# In the search (classes 0, 1, 3 and 4, seed 0): {found}\n")
    assert ("# No trial kept" in text) == (not trial["good"])


def test_words_beat_the_request_which_beats_the_preset():
    base = resolve(request())
    assert resolve(request(unlearn={"rounds": 7})).unlearn.rounds == 7
    both = resolve(request(unlearn={"rounds": 7}), {"unlearn": {"rounds": 8}})
    assert both.unlearn.rounds == 8
    assert dataclasses.replace(both.unlearn, rounds=base.unlearn.rounds) == base.unlearn


@pytest.mark.parametrize(
    ("asked", "words", "message"),
    [
        ({"preset": "digits/sfron-daul"}, {}, "unknown preset 'digits/sfron-daul'; did you mean 'digits/sfron-dual'"),
        ({"method": "sfrom"}, {}, r"unknown method 'sfrom'; did you mean 'sfron'\?"),
        ({}, {"method": "sfrom"}, "unknown method 'sfrom'"),
        ({"optimizer": "sharde"}, {}, r"unknown optimizer policy 'sharde'; did you mean 'shared'\?"),
        ({"method": "sfrom", "preset": None}, {}, "unknown method 'sfrom'"),
        ({"optimizer": "sharde", "preset": None}, {}, "unknown optimizer policy 'sharde'"),
        ({"method": {"gama": 2}}, {}, r"unknown key 'method.gama'; did you mean 'method.gamma'"),
        ({}, {"unlern": {"rounds": 1}}, r"unknown key 'unlern'; did you mean 'unlearn'"),
        ({"method": "finetune", "optimizer": "dual"}, {}, "finetune has one objective"),
        ({"config": "x.yaml"}, {}, "give a preset or a config file, not both"),
        ({"config": "absent.yaml", "preset": None}, {}, r"cannot read the config absent\.yaml"),
        ({"seed": "x"}, {}, "seed must be a whole number"),
    ],
)
def test_wrong_requests_are_refused(asked, words, message):
    with pytest.raises(UserError, match=message):
        resolve(request(**asked), words)


@pytest.mark.parametrize("word", ["method=5", "method=", "optimizer=5", "optimizer=", "model=7", "method=[a]"])
def test_sections_given_as_numbers_or_nothing_are_refused(word):
    with pytest.raises(UserError):
        resolve(request(preset=None), parse_words([word]))


@pytest.mark.parametrize("text", ["method: sfron", "optimizer: dual", "data: digits"])
def test_short_forms_are_also_understood_in_a_config_file(text, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    config = resolve(request(preset=None, config=str(path)))
    assert (config.method.name, config.optimizer.policy, config.model.source) == ("sfron", "dual", "digits")


@pytest.mark.parametrize(
    ("text", "key"),
    [("model: {source: elsewhere}", "model"), ("seed: 5", "seed"), ("forget: [8]", "forget")],
)
def test_a_config_file_may_hold_what_the_request_does_not_say(text, key, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    config = resolve(RunConfig(forget=[], config=str(path)))
    assert {"model": config.model.source, "seed": config.seed, "forget": config.forget}[key] in ("elsewhere", 5, ("8",))


@pytest.mark.parametrize("text", ["- a list", "just text", "a: [1", "\tx: 1", ""])
def test_config_files_without_sections_are_refused(text, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"own\.yaml") as raised:
        resolve(request(preset=None, config=str(path)))
    assert "\n" not in str(raised.value)


def test_options_of_another_method_do_not_carry_over():
    config = resolve(request(method="finetune", optimizer="shared"))
    assert config.method.name == "finetune"
    assert not hasattr(config.method, "gamma")
    assert config.unlearn == resolve(request()).unlearn


def test_a_class_by_name_or_by_index_is_one_run():
    first, second = (with_classes(resolve(request(forget=[word])), [3]) for word in ("three", 3))
    assert first == second
    assert config_hash(first) == config_hash(second)


def test_runtime_alone_leaves_the_hash():
    def value(**asked):
        return config_hash(resolve(request(**asked)))

    assert value() == value(runtime={"threads": 1, "device": "cpu"})
    for other in ({"seed": 1}, {"forget": ["4"]}, {"sample": {"seed": 1}}, {"unlearn": {"forget": {"lr": 1}}}):
        assert value() != value(**other)


def test_the_default_output_folder_tells_runs_apart():
    config = resolve(request(seed=5, forget=["8", "3"]))
    assert str(output_folder(request(), config, [3, 8])) == "runs/digits-3+8-sfron-dual-s5"
    assert str(output_folder(request(output="x/y"), config, [3, 8])) == "x/y"
    elsewhere = resolve(request(model="some/where/my pack"))
    assert str(output_folder(request(), elsewhere, [3])) == "runs/my-pack-3-sfron-dual-s0"


def test_the_hash_is_of_what_differs_from_the_defaults():
    """So a field that is added later does not make every finished run another one."""
    config = resolve(request())
    assert changed(config)["unlearn"]["forget"]["lr"] == config.unlearn.forget.lr
    assert "update" not in changed(config)["unlearn"]
    assert "base" not in changed(resolve(request(optimizer="shared")))["optimizer"]
    given = resolve(request(unlearn={"label_dropout": UnlearnConfig().label_dropout}))
    assert config_hash(given) == config_hash(config)


def test_retraining_takes_the_recipe_that_the_pack_was_made_by(tmp_path):
    """The digits' preset holds the digits' recipe; another pack's stands in its place, under what is asked for."""
    asked = {"method": "retrain", "optimizer": "shared"}
    preset = resolve(RunConfig(["3"], preset="digits/retrain-shared", **asked))
    assert resolve(RunConfig(["3"], model="digits", **asked)) == preset
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "model_index.json").write_text("{}")
    about = json.loads((shipped("assets") / "digits" / "erase.json").read_text())
    recipe = {"steps": 70, "batch_size": 8, "lr": 0.5, "warmup": 3, "ema": 0.25, "label_dropout": 0.75}
    about["provenance"]["recipe"]["dit"] |= recipe
    (pack / "erase.json").write_text(json.dumps(about))
    plan = resolve(RunConfig(["3"], model=str(pack), **asked), {"unlearn": {"retain": {"warmup": 1}}}).unlearn
    assert (plan.finish, plan.average, plan.label_dropout) == (70, 0.25, 0.75)
    assert (plan.retain.batch_size, plan.retain.lr, plan.retain.warmup) == (8, 0.5, 1)
    assert dataclasses.replace(plan.retain, batch_size=64, lr=2e-3, warmup=200) == preset.unlearn.retain
    finetune = {"method": "finetune", "optimizer": "shared"}
    assert resolve(RunConfig(["3"], model=str(pack), **finetune)).unlearn.average is None
    for wrong in ({"steps": 0}, {"lr": "fast"}, {"ema": None}):
        about["provenance"]["recipe"]["dit"] = {**recipe, **wrong, "of_a_later_version": 1}
        (pack / "erase.json").write_text(json.dumps(about))
        with pytest.raises(UserError, match=f"erase.json: provenance.recipe.dit.{next(iter(wrong))} must be"):
            resolve(RunConfig(["3"], model=str(pack), **asked))
    about["provenance"]["recipe"] = [1]
    (pack / "erase.json").write_text(json.dumps(about))
    assert resolve(RunConfig(["3"], model=str(pack), **asked)).unlearn == preset.unlearn
