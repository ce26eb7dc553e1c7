"""Reading, cropping, and the split."""

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from erase import files
from erase.data.images import center_crop, digits, enlarge_digits, folder, load_images, read_image, split
from erase.errors import UserError

from .helpers import make_images, write_image


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def adm_crop(image, size):
    """ADM's center_crop_arr, by its description: halve by box, bicubic to the short side, cut the middle."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)
    pixels = np.array(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize(
    ("width", "height"), [(16, 16), (33, 47), (47, 33), (200, 31), (31, 200), (64, 64), (65, 129), (5, 7), (1, 1)]
)
def test_a_crop_has_the_asked_size_and_adm_s_pixels(width, height):
    image = picture(width, height)
    cropped = center_crop(image, 16)
    assert cropped.size == (16, 16)
    assert np.array_equal(np.asarray(cropped), adm_crop(image, 16))


def test_a_crop_of_the_long_side_alone_is_the_middle():
    image = picture(21, 16)
    assert np.array_equal(np.asarray(center_crop(image, 16)), np.asarray(image)[:, 2:18])


def test_a_crop_by_a_power_of_two_is_the_mean_of_boxes():
    image = picture(64, 64)
    boxes = np.asarray(image).reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(center_crop(image, 32)) - boxes).max() <= 1


def test_an_image_of_the_right_size_is_left_alone(tmp_path):
    image = picture(16, 16)
    image.save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", 16)
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture(19, 23).convert(mode).save(path)
    assert read_image(path).shape == (3, 23, 19)
    assert read_image(path, 16).shape == (3, 16, 16)


def test_a_grey_image_has_three_equal_channels(tmp_path):
    picture(20, 17).convert("L").save(tmp_path / "a.png")
    red, green, blue = read_image(tmp_path / "a.png", 8)
    assert torch.equal(red, green)
    assert torch.equal(red, blue)
    assert red.float().std() > 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_unreadable_images_are_named(tmp_path, suffix):
    path = tmp_path / f"bad.{suffix}"
    picture(20, 20).save(path)
    whole = path.read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"cannot read the image .*bad\.{suffix}"):
            read_image(path)
    with pytest.raises(UserError, match=r"cannot read the image .*absent\.png"):
        read_image(tmp_path / "absent.png")


def test_an_image_cut_anywhere_is_named_or_read_whole(tmp_path):
    path = tmp_path / "bad.png"
    picture(6, 6).save(path)
    whole = path.read_bytes()
    complete = read_image(path)
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        try:
            assert torch.equal(read_image(path), complete)
        except UserError as error:
            assert "bad.png" in str(error)  # noqa: PT017


def test_digits_are_scikit_learn_s():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs, ours = datasets.load_digits(), digits()
    assert len(ours) == 1797
    assert np.array_equal(ours.labels, theirs.target)
    assert np.array_equal(ours.arrays[:, 0].numpy(), enlarge_digits(theirs.images))
    assert torch.equal(ours.arrays[:, 0], ours.arrays[:, 2])
    assert ours.names == {label: str(label) for label in range(10)}


def test_digits_are_bright_strokes_on_black_of_the_stated_size():
    ours = digits()
    assert ours.pixels(0).shape == (3, 32, 32)
    assert ours.size == 32
    assert ours.arrays.dtype == torch.uint8
    assert ours.arrays.min() == 0
    assert ours.arrays.max() == 255
    assert enlarge_digits(np.full((1, 8, 8), 16.0)).min() == 255  # 16 is white


def test_the_digits_split_is_balanced_and_fixed():
    ours = digits()
    for label in range(10):
        share = ours.held_out[ours.labels == label].mean()
        assert abs(share - 0.2) < 0.004
    assert np.array_equal(ours.held_out, digits().held_out)
    assert ours.held_out.sum() == 359
    assert np.array_equal(ours.held_out, split(ours.labels))
    assert ours.key == digits().key


def test_a_split_depends_on_labels_seed_and_share():
    labels = np.repeat([3, 5], [50, 11])
    held_out = split(labels)
    assert held_out[labels == 3].sum() == 10
    assert held_out[labels == 5].sum() == 2
    assert np.array_equal(held_out, split(labels))
    assert not np.array_equal(held_out, split(labels, seed=1))
    assert split(labels, share=0.5)[labels == 3].sum() == 25


def test_a_class_is_split_the_same_whatever_the_others_are():
    alone, among = np.full(20, 3), np.concatenate([np.full(7, 1), np.full(20, 3)])
    assert np.array_equal(split(alone), split(among)[7:])


def test_selections_and_batches_keep_the_order():
    images = make_images(12)
    assert images.select([0, 2]).tolist() == [0, 2, 3, 5, 6, 8, 9, 11]
    assert images.select([0], held_out=True).tolist() == [0]
    assert images.select([0], held_out=False).tolist() == [3, 6, 9]
    sides = [images.select([0, 1, 2], held_out=side) for side in (True, False)]
    assert sorted(np.concatenate(sides)) == list(range(12))
    batches = list(images.batches([4, 1, 7], 2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert torch.equal(torch.cat(batches), images.arrays[[4, 1, 7]])


def make_folder(root, sizes=((20, 20), (17, 30), (40, 16))):
    for name in ("cat", "ant"):
        for number, (width, height) in enumerate(sizes):
            write_image(root / name / f"{number}.png", picture(width, height, number))
    return root


def test_a_folder_is_read_by_its_sub_folders(tmp_path):
    images = folder(make_folder(tmp_path), 16)
    assert images.names == {0: "ant", 1: "cat"}
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [path.parent.name for path in images.files] == ["ant"] * 3 + ["cat"] * 3
    assert next(images.batches(range(6), 6)).shape == (6, 3, 16, 16)
    assert load_images(str(tmp_path), 16).key == images.key


def test_a_folder_follows_the_model_s_ids(tmp_path):
    images = folder(make_folder(tmp_path), 16, {"cat": 281, "ant": 310, "dog": 5})
    assert images.names == {281: "cat", 310: "ant"}
    assert set(images.labels) == {281, 310}


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("1", "10", "2"), {"1": 1, "10": 10, "2": 2}),
        (("007", "3"), {"007": 7, "3": 3}),
        (("2", "ant"), {"2": 0, "ant": 1}),
    ],
)
def test_sub_folders_that_are_numbers_keep_them_as_ids(tmp_path, names, ids):
    for name in names:
        write_image(tmp_path / name / "0.png", picture(9, 9))
    assert folder(tmp_path, 16).names == {label: name for name, label in ids.items()}


@pytest.mark.parametrize("names", [("1", "01"), ("1", "2", "ant")])
def test_numbers_that_would_be_other_classes_ids_are_refused(tmp_path, names):
    for name in names:
        write_image(tmp_path / name / "0.png", picture(9, 9))
    with pytest.raises(UserError, match=r"bears the name of class 0 and the index of class 1 .*; rename it$"):
        folder(tmp_path, 16)


def test_a_sub_folder_that_is_the_name_of_one_class_and_the_index_of_another_is_refused(tmp_path):
    write_image(tmp_path / "7" / "0.png", picture(9, 9))
    with pytest.raises(UserError, match=r"7 bears the name of class 9 and the index of class 7 \(crane\); .* id2label"):
        folder(tmp_path, 16, {"crane": 7, "7": 9})
    assert folder(tmp_path, 16, {"crane": 6, "7": 9}).names == {9: "7"}


def test_the_key_of_a_folder_changes_with_its_content(tmp_path):
    make_folder(tmp_path)
    key = folder(tmp_path, 16).key
    assert folder(tmp_path, 16).key == key
    assert folder(tmp_path, 8).key != key
    write_image(tmp_path / "cat" / "0.png", picture(20, 20, 99))
    changed = folder(tmp_path, 16).key
    assert changed != key
    (tmp_path / "cat" / "0.png").rename(tmp_path / "ant" / "9.png")
    assert folder(tmp_path, 16).key not in (key, changed)


@pytest.mark.parametrize(("age", "read"), [(3600, 0), (0, 6)])
def test_a_file_of_known_size_and_times_is_not_read_again_unless_it_is_young(tmp_path, monkeypatch, age, read):
    now, seen, real = time.time_ns(), [], files._file_digest
    monkeypatch.setattr(files.time, "time_ns", lambda: now + age * 10**9)
    monkeypatch.setattr(files, "_file_digest", lambda path: seen.append(path) or real(path))
    make_folder(tmp_path)
    key = folder(tmp_path, 16).key
    seen.clear()
    assert folder(tmp_path, 16).key == key
    assert len(seen) == read
    path = tmp_path / "cat" / "0.png"
    whole, about = path.read_bytes(), path.stat()
    while path.stat().st_ctime_ns == about.st_ctime_ns:  # of a coarse clock
        path.write_bytes(whole[::-1])
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # size and time as they were
    assert folder(tmp_path, 16).key != key
    path.write_bytes(whole)
    assert folder(tmp_path, 16).key == key


def test_damaged_or_absent_digests_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SETTLED", -(10**12))
    make_folder(tmp_path / "data")
    key = folder(tmp_path / "data", 16).key
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text(kept.read_text()[:-9])
    assert folder(tmp_path / "data", 16).key == key


def test_other_files_are_passed_over(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    write_image(tmp_path / "cat" / "deeper" / "X.PNG".lower(), picture(9, 9))
    (tmp_path / "cat" / "deeper" / "x.png").rename(tmp_path / "cat" / "deeper" / "X.PNG")
    assert len(folder(tmp_path, 16)) == 7


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no data folder at .*absent"):
        folder(tmp_path / "absent", 16)
    with pytest.raises(UserError, match="no images under"):
        folder(tmp_path, 16)
    make_folder(tmp_path / "data")
    with pytest.raises(UserError, match=r"ant is no class of the model; known: cat"):
        folder(tmp_path / "data", 16, {"cat": 0})


def test_a_broken_image_in_a_folder_is_named_when_it_is_read(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"broken")
    images = folder(tmp_path, 16)
    with pytest.raises(UserError, match=r"cat/1\.png"):
        list(images.batches(range(len(images))))
