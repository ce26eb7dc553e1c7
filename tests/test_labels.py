"""Class names to ids."""

import subprocess
import sys

import pytest

from erase.errors import UserError
from erase.imagenet import class_names, is_imagenet, synonyms, wnids
from erase.labels import find_class, find_forget, names_of

LABELS = {0: "tench, Tinca tinca", 1: "Goldfish", 4: "crane", 7: "crane", 9: "nine"}


@pytest.mark.parametrize(
    ("text", "label"),
    [(0, 0), ("4", 4), (" 1 ", 1), ("goldfish", 1), ("TENCH", 0), ("tinca tinca", 0), ("tench, Tinca tinca", 0)],
)
def test_classes_are_found_by_index_and_by_any_of_their_names(text, label):
    assert find_class(text, LABELS) == label


NUMBERED = {0: "2019", 7: "crane", 9: "7"}


def test_a_word_that_is_one_class_s_index_and_another_s_name_is_refused():
    with pytest.raises(UserError, match=r"'7' is the index of class 7 \(crane\) and the name of class 9; give 'crane'"):
        find_class("7", NUMBERED)
    assert [find_class(word, NUMBERED) for word in ("crane", "9", 7)] == [7, 9, 7]


def test_a_name_of_digits_that_is_no_index_is_a_name():
    assert find_class("2019", NUMBERED) == 0
    assert find_class("3", {label: str(label) for label in range(5)}) == 3


@pytest.mark.parametrize("text", ["2", -1, "10", 10**30])
def test_an_index_that_is_not_there_lists_what_is(text):
    with pytest.raises(UserError, match="is not in the model; it has 0, 1, 4, 7, 9"):
        find_class(text, LABELS)


def test_consecutive_indices_are_given_as_a_span():
    with pytest.raises(UserError, match="class 10 is not in the model; it has 0 to 9"):
        find_class("10", {label: str(label) for label in range(10)})


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match=r"unknown class 'goldfsh'; did you mean 'Goldfish'\?"):
        find_class("goldfsh", LABELS)


def test_an_ambiguous_name_lists_the_indices():
    with pytest.raises(UserError, match=r"'crane' is ambiguous; give the index: 4 \(crane\), 7 \(crane\)"):
        find_class("crane", LABELS)


@pytest.mark.parametrize("text", ["--3", "²"])
def test_what_only_looks_like_an_index(text):
    with pytest.raises(UserError):
        find_class(text, LABELS)


def test_nothing_is_no_class():
    with pytest.raises(UserError, match="unknown class ''"):
        find_class("", LABELS)


def test_the_classes_to_forget_are_sorted_ids():
    assert find_forget(["7", "goldfish", 0], LABELS) == [0, 1, 7]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no class to forget; give --forget CLASS"),
        (["1", "goldfish"], r"class 1 \(Goldfish\) is given twice"),
        (["0", "1", "4", "7", "9"], "all classes are to be forgotten"),
        (["0", "nope"], "unknown class 'nope'"),
    ],
)
def test_wrong_sets_of_classes_are_refused(texts, message):
    with pytest.raises(UserError, match=message):
        find_forget(texts, LABELS)


IMAGENET = class_names()


def test_the_facts_of_imagenet_are_whole():
    assert len(wnids()) == len(set(wnids())) == len(synonyms()) == 1000
    assert list(wnids()) == sorted(wnids())  # ImageNet numbers its classes in the order of their wnids
    assert sum(len(names) for names in synonyms()) == 1860
    assert [wnids()[i] for i in (0, 89, 207, 270, 279, 360, 999)] == [
        "n01440764", "n01819313", "n02099601", "n02114548", "n02120079", "n02444819", "n15075141",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("golden retriever", 207), ("Golden Retriever", 207), (" n02099601 ", 207), ("N02099601", 207), ("207", 207),
        (207, 207), ("white wolf", 270), ("Canis lupus tundrarum", 270), ("tank suit", 639),
        ("sulphur-crested cockatoo", 89), ("arctic fox", 279), ("otter", 360), ("cock", 7), ("maillot, tank suit", 639),
    ],
)  # fmt: skip
def test_imagenet_s_classes_go_by_index_wnid_and_any_name(text, label):
    assert find_class(text, IMAGENET) == label
    # however the model spells them: wnids, first names, or upper case; a few of its own are no hindrance
    for spelt in (dict(enumerate(wnids())), {i: names[0] for i, names in enumerate(synonyms())}):
        assert find_class(text, {**spelt, 134: "crane bird", 638: "maillot one"}) == label
    assert find_class(text, {label: IMAGENET[label].upper()}) == label


def test_ambiguous_imagenet_names_are_refused_with_index_wnid_and_synonyms():
    with pytest.raises(UserError) as raised:
        find_class("Maillot", IMAGENET)
    assert str(raised.value) == (
        "the class name 'Maillot' is ambiguous; give the index or wnid: 638 (n03710637: maillot), "
        "639 (n03710721: maillot, tank suit)"
    )
    ambiguous = {name: ids for name, ids in names_of(IMAGENET).items() if len(ids) > 1}
    assert len(ambiguous) == 19
    assert ambiguous["crane"] == [134, 517]
    assert ambiguous["cardigan"] == [264, 474]  # a corgi and a garment, by the case of one letter
    for name, ids in ambiguous.items():
        with pytest.raises(UserError, match="is ambiguous"):
            find_class(name, IMAGENET)
        assert [find_class(wnids()[label], IMAGENET) for label in ids] == ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Golden Retreiver", r"; did you mean 'golden retriever'"),
        ("n02099602", r"unknown class 'n02099602'; no class of the model has this wnid$"),
        ("xqzzy", r"; give an index, a wnid or a name of an ImageNet class$"),
        ("1000", "class 1000 is not in the model; it has 0 to 999"),
        ("", "unknown class ''"),
    ],
)
def test_unknown_imagenet_classes_suggest_or_say_what_to_give(text, said):
    with pytest.raises(UserError, match=said):
        find_class(text, IMAGENET)


def test_a_model_of_a_few_imagenet_classes_knows_those_alone():
    few = {207: "golden retriever", 279: "Arctic fox"}
    assert find_class("n02120079", few) == 279
    with pytest.raises(UserError, match="unknown class 'otter'"):
        find_class("otter", few)


def test_what_is_imagenet():
    assert is_imagenet(IMAGENET)
    assert is_imagenet(dict(enumerate(wnids())))
    assert not is_imagenet({label: str(label) for label in range(1000)})
    assert not is_imagenet({label: str(label) for label in range(10)})
    assert not is_imagenet({label: IMAGENET[label + 1] for label in range(999)})  # the names, one place off
    assert not is_imagenet({1000: "golden retriever"})
    assert not is_imagenet({})
    with pytest.raises(UserError, match="unknown class 'n02099601'"):
        find_class("n02099601", LABELS)


def test_classes_are_found_without_torch():
    code = (
        "import sys; from erase.labels import find_class; from erase.imagenet import class_names; "
        "assert find_class('golden retriever', class_names()) == 207; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
