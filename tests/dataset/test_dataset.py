"""Reading and writing a dataset."""

import hashlib
import json
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spermseg.dataset.dataset import encode_flags, open_dataset
from spermseg.dataset.index import Example, LeftOut, digest_examples, write_index
from spermseg.errors import DatasetError
from spermseg.storage.filesystem import Location

PARTS = ("head", "tail")
IMAGE = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
FLAGS = np.zeros((12, 16), np.uint8)
FLAGS[2:6, 2:6] |= 1
FLAGS[4:8, 4:12] |= 2


def add_example(location, name, split="train", flags=FLAGS):
    image, mask = cv2.imencode(".png", IMAGE[..., ::-1])[1].tobytes(), encode_flags(flags)
    location.child("images", name).write_bytes(image)
    location.child("masks", f"{name}.png").write_bytes(mask)
    return Example(
        image=name,
        mask=f"{name}.png",
        group=f'group of "{name}", first',
        split=split,
        width=16,
        height=12,
        n_regions=2,
        foreground_fraction=float((flags > 0).mean()),
        image_sha256=hashlib.sha256(image).hexdigest(),
        mask_sha256=hashlib.sha256(mask).hexdigest(),
    )


def write_dataset(location, parts=PARTS, flags=FLAGS):
    examples = [
        add_example(location, "b, ü.png", flags=flags),
        add_example(location, "deep/a.png", "val", flags),
    ]
    left_out = [LeftOut(file="c.png", reason="no annotation", detail="c.png: none")]
    settings = {"seed": 0}
    splits = ("train", "val", "test")
    write_index(location, examples, left_out, parts=parts, labels=None, split_settings=settings, splits=splits)
    return open_dataset(location)


@pytest.fixture
def location(tmp_path):
    return Location(str(tmp_path / "dataset"))


@settings(max_examples=60, deadline=None)
@given(arrays(st.sampled_from([np.uint8, np.uint16]), (5, 7), elements=st.integers(0, 255)))
def test_a_mask_survives_its_png(flags):
    read = cv2.imdecode(np.frombuffer(encode_flags(flags), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read.dtype == flags.dtype
    np.testing.assert_array_equal(read, flags)


def test_what_was_written_is_read_back(location):
    dataset = write_dataset(location)
    assert dataset.all_examples == (add_example(location, "b, ü.png"), add_example(location, "deep/a.png", "val"))
    assert dataset.parts == PARTS
    assert dataset.splits == ("train", "val")
    (example,) = dataset.examples("train")
    assert example.group == 'group of "b, ü.png", first'
    np.testing.assert_array_equal(dataset.read_image(example), IMAGE)
    np.testing.assert_array_equal(dataset.read_mask(example), FLAGS > 0)
    np.testing.assert_array_equal(dataset.read_mask(example, "head"), FLAGS & 1 > 0)
    np.testing.assert_array_equal(dataset.read_mask(example, "tail"), FLAGS & 2 > 0)
    lines = (location.child("left_out.csv").read_bytes()).decode().splitlines()
    assert lines == ["file,reason,detail", "c.png,no annotation,c.png: none"]


def test_16_parts_are_read_back(location):
    flags = FLAGS.astype(np.uint16)
    flags[0, 0] = 1 << 15
    dataset = write_dataset(location, parts=tuple(f"part-{index:02d}" for index in range(16)), flags=flags)
    mask = dataset.read_mask(dataset.examples("val")[0], "part-15")
    assert list(zip(*np.nonzero(mask), strict=True)) == [(0, 0)]


def test_the_head_is_the_union_of_its_parts_where_only_they_are_annotated(location):
    flags = np.arange(FLAGS.size, dtype=np.uint8).reshape(FLAGS.shape) % 8
    dataset = write_dataset(location, parts=("acrosome", "nucleus", "tail"), flags=flags)
    assert dataset.classes == ("cell", "acrosome", "nucleus", "tail", "head")
    np.testing.assert_array_equal(dataset.read_mask(dataset.examples("val")[0], "head"), flags & 3 > 0)


@pytest.mark.parametrize("part", ["acrosome", "vacuole"])
def test_a_part_of_the_head_alone_is_no_head(location, part):
    assert write_dataset(location, parts=("tail", part)).classes == ("cell", "tail", part)


def test_a_dataset_on_s3_that_travelled_to_another_process_is_read(moto_server):
    dataset = pickle.loads(pickle.dumps(write_dataset(moto_server.new_bucket().child("dataset"))))
    assert dataset.read_mask(open_dataset(dataset.location).examples("val")[0]).sum() == (FLAGS > 0).sum()


def test_the_digest_depends_on_images_masks_and_split_but_not_on_order_names_or_groups(location):
    one, two = write_dataset(location).all_examples
    digest = digest_examples([one, two])
    assert digest == digest_examples([two, one])
    assert digest == digest_examples([replace(one, image="renamed.png", group="other"), two])
    assert digest != digest_examples([replace(one, split="test"), two])
    assert digest != digest_examples([replace(one, mask_sha256="0" * 64), two])
    assert digest != digest_examples([one])


def test_an_unknown_or_empty_split_is_an_error_that_says_which_exist(location):
    dataset = write_dataset(location)
    with pytest.raises(DatasetError, match=r"split 'holdout' of .* does not exist; it has train \(1\), val \(1\)"):
        dataset.examples("holdout")
    with pytest.raises(DatasetError, match=r"split 'test' of .* is empty; it has train"):
        dataset.examples("test")


def test_an_unknown_part_is_an_error_that_says_which_exist(location):
    dataset = write_dataset(location)
    with pytest.raises(DatasetError, match=r"got part 'acrosome'; .* has cell, head, tail"):
        dataset.read_mask(dataset.examples("val")[0], "acrosome")


def test_a_folder_that_is_no_dataset_is_an_error(location):
    with pytest.raises(DatasetError, match=r"is not a dataset: no dataset\.json"):
        open_dataset(location)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", r"dataset\.json is damaged"),
        (b"[]", "layout version None"),
        (b'{"schema_version": 99}', "layout version 99; version 1 is needed"),
        (b'{"schema_version": 1}', r"dataset\.json is damaged"),
    ],
)
def test_a_damaged_description_is_an_error(location, content, problem):
    write_dataset(location)
    location.child("dataset.json").write_bytes(content)
    with pytest.raises(DatasetError, match=problem):
        open_dataset(location)


def test_an_index_that_was_edited_or_damaged_is_an_error(location):
    write_dataset(location)
    index = location.child("index.csv").read_bytes()
    location.child("index.csv").write_bytes(index.replace(b",train,", b",val,"))
    with pytest.raises(DatasetError, match=r"does not fit dataset\.json"):
        open_dataset(location)
    location.child("index.csv").write_bytes(index.replace(b",16,12,", b",wide,12,"))
    with pytest.raises(DatasetError, match=r"index\.csv is missing or damaged"):
        open_dataset(location)


def test_files_that_are_missing_or_changed_are_errors(location):
    dataset = write_dataset(location)
    example = dataset.examples("val")[0]
    location.child("images", example.image).write_bytes(b"other")
    with pytest.raises(DatasetError, match=r"images/deep/a\.png of .* has changed since it was prepared"):
        dataset.read_image(example)
    missing = replace(example, mask="gone.png")
    with pytest.raises(DatasetError, match=r"masks/gone\.png of .* is missing"):
        dataset.read_mask(missing)


def test_the_description_says_how_the_dataset_came_to_be(location):
    write_dataset(location)
    description = json.loads(location.child("dataset.json").read_bytes())
    assert description["counts"] == {"train": 1, "val": 1, "test": 0}
    assert description["left_out"] == 1
    assert description["split_settings"] == {"seed": 0}
