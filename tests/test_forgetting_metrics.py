"""Top-5, probability and entropy of the forgotten class, gate shares, and the neighbour table."""

import math

import numpy as np
import pytest

from erase.metrics import intervals
from erase.metrics.accuracy import Readings, forget_accuracy, forget_accuracy_top1
from erase.metrics.confidence import forgotten_entropy, forgotten_probability, probabilities
from erase.metrics.gate import gate_shares
from erase.metrics.neighbours import neighbour_table
from erase.metrics.top5 import forget_accuracy_top5

IDS = (3, 10, 11, 12, 13, 14, 281)


def logits(*places):
    """Rows whose answer ranks class 281 in these places, from 1."""
    rows = np.tile(np.array([6.0, 5, 4, 3, 2, 1, 0], dtype=np.float32), (len(places), 1))
    for row, place in zip(rows, places, strict=True):
        row[-1] = 6.5 - (place - 1) if place < 7 else -1
    return rows


def test_top5_counts_the_forgotten_class_among_the_five_likeliest():
    answers = logits(1, 2, 5, 6, 7, 1)
    asked = np.array([281, 281, 281, 281, 281, 3])
    found = forget_accuracy_top5(answers, IDS, asked, [281])
    assert (found["value"], found["n"]) == (3 / 5, 5)
    wrong = (np.argsort(-answers, 1)[:, :5] == 281).any(1).mean()  # the known fault: places taken for class ids
    assert wrong == 0


def test_the_denominator_is_the_images_asked_for_as_the_class():
    """The known wrong ways: over all images, or over the images that are called the class."""
    asked = np.array([3] * 4 + [281] * 6)
    answered = np.array([3, 281, 281, 3, 3, 3, 3, 281, 3, 3])
    readings = Readings(asked, answered, np.ones(10, dtype=bool))
    found = forget_accuracy(readings, [3])
    assert (found["value"], found["n"]) == (2 / 4, 4)
    both = (asked == 3) & (answered == 3)
    assert found["value"] not in (both.mean(), both.sum() / (answered == 3).sum())
    assert forget_accuracy_top1(readings, [3])["n"] == 4


def test_the_mean_probability_is_of_the_class_asked_for():
    answers = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]))
    asked = np.array([7, 7, 2])
    found = forgotten_probability(answers, (2, 5, 7), asked, [7])
    assert (found["value"], found["n"]) == (pytest.approx((0.7 + 0.2) / 2), 2)
    both = forgotten_probability(answers, (2, 5, 7), asked, [7, 2])
    assert both["value"] == pytest.approx((0.7 + 0.2 + 0.6) / 3)
    assert found["low"] <= found["value"] <= found["high"]


def test_entropy_is_in_nats_between_none_and_all():
    flat, sure = np.zeros((4, 5)), np.eye(5)[:4] * 1000.0
    asked = np.array([1, 1, 1, 1])
    assert forgotten_entropy(flat, asked, [1])["value"] == pytest.approx(math.log(5))
    assert forgotten_entropy(sure, asked, [1])["value"] == 0
    assert forgotten_entropy(flat, asked, [1])["most"] == math.log(5)
    assert forgotten_entropy(flat, asked, [2]) == {
        "value": None, "n": 0, "low": None, "high": None, "most": math.log(5),
    }  # fmt: skip
    assert probabilities(np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]


def test_gate_shares_add_up_and_tell_destroyed_from_forgotten():
    asked = np.array([0, 0, 0, 0, 1, 1])
    answered = np.array([0, 1, 1, 0, 1, 1])
    passed = np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    found = gate_shares(Readings(asked, answered, passed), [0])
    assert [found[name]["value"] for name in ("still", "another", "not_an_image", "retained")] == [
        1 / 4,
        1 / 4,
        1 / 2,
        1 / 2,
    ]
    assert sum(found[name]["value"] for name in ("still", "another", "not_an_image")) == 1


def test_the_neighbour_table_is_sorted_by_the_change_and_marks_the_nearest():
    asked = np.repeat([0, 1, 2, 3, 4], 4)
    passed = np.ones(20, dtype=bool)
    right = asked.copy()
    after = asked.copy()
    after[:4] = 1  # class 0 is forgotten
    after[8:10] = 0  # class 2 loses two of four
    before = right.copy()
    before[12] = 9  # class 3 gains one
    table = neighbour_table(
        Readings(asked, before, passed), Readings(asked, after, passed), [0], [2, 4, 1, 3], {2: "two"}
    )
    assert [row["index"] for row in table] == [0, 2, 1, 4, 3]
    assert [row["change"] for row in table] == [-1, -0.5, 0, 0, 0.25]
    assert table[1]["name"] == "two"
    assert (table[1]["before"]["value"], table[1]["after"]["value"], table[1]["after"]["n"]) == (1, 0.5, 4)
    assert {row["index"]: row["rank"] for row in table} == {0: None, 2: 1, 4: 2, 1: 3, 3: 4}
    assert [row["index"] for row in table if row["near"]] == [2, 1, 4]
    assert [row["index"] for row in table if row["forgotten"]] == [0]


def test_the_bootstrap_interval_of_a_mean_has_the_width_of_its_error():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = intervals.mean(values, "test")
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert found == intervals.mean(values, "test")


def test_the_normal_interval_has_the_width_of_the_deviation():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = intervals.normal(values.mean(), lambda rows: values[rows].mean(), 400, 200, "test")
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.2)
    assert intervals.normal(1.0, lambda rows: 0.0, 400, 1, "test") == (None, None)
