"""How many images of each class a run draws, and in which blocks."""

import pytest

from erase.config import SampleConfig
from erase.errors import UserError
from erase.quota import image_counts, spread
from erase.sampling import blocks, drawing

LABELS = {label: f"name {label}" for label in range(1000)}


def test_by_default_as_many_of_every_class():
    assert image_counts(SampleConfig(), {0: "a", 1: "b", 2: "c"}, [1]) == {0: 100, 1: 100, 2: 100}


def test_the_papers_sample_is_spread_evenly_over_the_other_classes():
    counts = image_counts(SampleConfig(per_class=512, retain_total=10000), LABELS, [207])
    assert counts.pop(207) == 512
    assert list(counts) == [label for label in range(1000) if label != 207]
    assert sum(counts.values()) == 10000
    assert sorted(set(counts.values())) == [10, 11]


def test_fewer_images_than_classes_take_the_same_classes_at_every_call():
    first, again = (image_counts(SampleConfig(per_class=2, retain_total=5), LABELS, [0]) for _ in range(2))
    assert first == again
    assert list(first.values()) == [2, 1, 1, 1, 1, 1]
    assert max(first) > 100  # not the first few by index


def test_no_class_gets_more_than_per_class():
    assert spread([3, 5], 10, 4) == {3: 4, 5: 4}
    assert spread([3, 5], None, 4) == {3: 4, 5: 4}


def test_only_classes_at_hand_or_those_asked_for_are_drawn():
    sample = SampleConfig(per_class=2)
    assert list(image_counts(sample, LABELS, [3], [3, 7, 9])) == [3, 7, 9]
    asked = SampleConfig(per_class=2, retain_classes=("name 8", "7"))
    assert image_counts(asked, LABELS, [3], [3, 9]) == {3: 2, 7: 2, 8: 2}


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (("name 3",), r"class 3 \(name 3\) is to be forgotten and in sample\.retain_classes"),
        (("nobody",), "unknown class 'nobody'"),
        ((), "no retained class is left"),
    ],
)
def test_classes_that_cannot_be_drawn_are_refused(asked, text):
    with pytest.raises(UserError, match=text):
        image_counts(SampleConfig(retain_classes=asked), LABELS, [3])


def test_blocks_are_of_one_class_or_run_across_classes():
    counts = {2: 3, 7: 2}
    assert blocks(counts, 2, across=False) == [[(2, 0), (2, 1)], [(2, 2)], [(7, 0), (7, 1)]]
    assert blocks(counts, 2, across=True) == [[(2, 0), (2, 1)], [(2, 2), (7, 0)], [(7, 1)]]


def test_pixels_do_not_depend_on_how_many_images_are_drawn_but_on_the_blocks():
    plain = drawing(SampleConfig())
    assert plain == drawing(SampleConfig(per_class=7, retain_classes=("3",)))
    assert plain != drawing(SampleConfig(retain_total=5)) == drawing(SampleConfig(retain_total=6))
    assert plain != drawing(SampleConfig(guidance_channels="3"))
