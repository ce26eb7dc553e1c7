"""Sub-folders of a data folder to classes of a model."""

import numpy as np
import pytest

from erase.config import RunConfig
from erase.data.classes import folder_ids
from erase.data.images import load_images
from erase.errors import UserError
from erase.imagenet import class_names, wnids
from erase.presets import resolve
from erase.stage import check_classes

from .helpers import make_model, write_image

IMAGENET = class_names()
NUMBERS = {label: str(label) for label in range(3)}


def make(root, *names):
    for name in names:
        write_image(root / name / "0.png", np.zeros((16, 16, 3)))
        write_image(root / name / "1.png", np.full((16, 16, 3), 9))
    return root


def test_some_wnid_folders_keep_their_true_indices(tmp_path):
    make(tmp_path, "n02120079", "n01440764", "n02099601")
    ids = folder_ids(tmp_path, IMAGENET, 1000)
    assert ids == {"n01440764": 0, "n02099601": 207, "n02120079": 279}
    assert ids != {name: number for number, name in enumerate(sorted(ids))}  # what their order would give
    images = load_images(str(tmp_path), 16, ids)
    assert images.labels.tolist() == [0, 0, 207, 207, 279, 279]


def test_all_wnid_folders_are_the_classes_in_order(tmp_path):
    for wnid in wnids():
        (tmp_path / wnid).mkdir()
    assert folder_ids(tmp_path, IMAGENET, 1000) == {wnid: index for index, wnid in enumerate(wnids())}


def test_folders_of_imagenet_names_are_found_too(tmp_path):
    make(tmp_path, "Golden Retriever", "n01440764", "tank suit")
    assert folder_ids(tmp_path, IMAGENET, 1000) == {"Golden Retriever": 207, "n01440764": 0, "tank suit": 639}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("crane", r"crane bears a name of the classes 134 and 517; rename it to the class's wnid"),
        ("1 cat", r"1 cat is no ImageNet class, and others beside it are; rename or move it"),
        ("n09999999", "n09999999 is no ImageNet class"),
    ],
)
def test_a_folder_among_imagenet_s_that_is_none_is_named(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        folder_ids(make(tmp_path, "n01440764", name), IMAGENET, 1000)


def test_other_folders_go_by_sorted_names_and_must_be_as_many_as_the_classes(tmp_path, capsys):
    make(tmp_path, "cat", "ant", "dog")
    assert folder_ids(tmp_path, NUMBERS, 3) == {"ant": 0, "cat": 1, "dog": 2}
    assert "taken in sorted order" in capsys.readouterr().err
    for labels, slots in ((IMAGENET, 1000), ({**NUMBERS, 3: "3"}, 4)):
        with pytest.raises(UserError, match=rf"has 3 sub-folders, not named .* as many as those, {slots}$"):
            folder_ids(tmp_path, labels, slots)


def test_a_thousand_other_folders_are_an_imagenet_sized_model_s_classes(tmp_path):
    names = [f"thing {number}" for number in range(1000)]
    for name in names:
        (tmp_path / name).mkdir()
    ids = folder_ids(tmp_path, IMAGENET, 1000)
    assert [name for name, _ in sorted(ids.items(), key=lambda item: item[1])] == sorted(names)


def test_the_parent_of_train_and_val_is_told_apart(tmp_path):
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match=r"has 2 sub-folders, .*; did you mean .*/train\?"):
        folder_ids(tmp_path, IMAGENET, 1000)


def test_folders_that_are_numbers_are_indices(tmp_path):
    make(tmp_path, "0207", "10", "9")
    assert folder_ids(tmp_path, IMAGENET, 1000) == {"0207": 207, "10": 10, "9": 9}
    make(tmp_path, "1000")
    with pytest.raises(UserError, match="1000 is no class of the model, which has 1000"):
        folder_ids(tmp_path, IMAGENET, 1000)


def test_a_model_with_names_of_its_own_goes_by_them_alone(tmp_path):
    make(tmp_path, "cat", "ant", "dog")
    own = {0: "cat", 4: "dog"}
    assert folder_ids(tmp_path, own, 12) == {"cat": 0, "dog": 4}
    digits = {label: str(label) for label in range(10)}  # ten names in a thousand slots
    assert folder_ids(tmp_path, digits, 1000) == {str(label): label for label in range(10)}
    with pytest.raises(UserError, match="ant is no class of the model; known: 0, 1"):
        load_images(str(tmp_path), 16, folder_ids(tmp_path, digits, 1000))
    assert folder_ids(tmp_path / "absent", own, 12) == {"cat": 0, "dog": 4}


def test_of_imagenet_s_classes_only_the_forgotten_and_another_need_images(tmp_path):
    def check(labels, *names):
        model = make_model(label_slots=1000, classes=range(1000))
        model.labels = labels
        root = make(tmp_path / "-".join(names), *names)
        images = load_images(str(root), 16, folder_ids(root, labels, 1000))
        config = resolve(RunConfig(["207"], preset="digits/sfron-dual"))
        check_classes(config, model, images)

    check(IMAGENET, "n02099601", "n02120079")
    with pytest.raises(UserError, match=r"no image of class 207 \(golden retriever\)"):
        check(IMAGENET, "n01440764", "n02120079")
    with pytest.raises(UserError, match="images of the forgotten classes alone"):
        check(IMAGENET, "n02099601")
    with pytest.raises(UserError, match=r"no image of class 0 \(name 0\)"):
        check({label: f"name {label}" for label in range(1000)}, "name 207", "name 5")
