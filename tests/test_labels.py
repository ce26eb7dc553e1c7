"""Class names to ids."""

import pytest

from erase.errors import UserError
from erase.labels import find_class, find_forget

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
