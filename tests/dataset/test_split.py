"""Splits that never cut a group."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spermseg.dataset.split import SPLITS, Placement, SplitConfig, place_images, read_split_csv, split_groups
from spermseg.errors import ConfigError

# each image's group; sizes are as uneven as patients are
groups_of_images = st.lists(st.integers(0, 30).map(lambda number: f"patient-{number:02d}"), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(groups_of_images, st.integers(0, 5))
def test_every_group_is_in_exactly_one_split_and_none_is_lost(groups, seed):
    split_of = split_groups(groups, SplitConfig(seed=seed))
    assert set(split_of) == set(groups)
    assert set(split_of.values()) <= set(SPLITS)


@settings(max_examples=60, deadline=None)
@given(groups_of_images, st.integers(0, 5), st.randoms())
def test_the_order_of_the_images_does_not_matter(groups, seed, random):
    shuffled = random.sample(groups, len(groups))
    assert split_groups(groups, SplitConfig(seed=seed)) == split_groups(shuffled, SplitConfig(seed=seed))


@settings(max_examples=60, deadline=None)
@given(groups_of_images, st.integers(0, 5))
def test_with_three_groups_or_more_no_split_is_empty(groups, seed):
    split_of = split_groups(groups, SplitConfig(seed=seed))
    assert len(set(split_of.values())) == min(3, len(set(groups)))


@settings(max_examples=60, deadline=None)
@given(groups_of_images, st.integers(0, 5))
def test_no_split_misses_its_share_by_more_than_the_largest_group(groups, seed):
    split_of = split_groups(groups, SplitConfig(seed=seed))
    largest = max(groups.count(group) for group in groups)
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        images = sum(split_of[group] == split for group in groups)
        # one more image a split, since none may stay empty
        assert abs(images - share * len(groups)) <= largest + 2


@pytest.mark.parametrize("seed", range(5))
def test_uneven_groups_come_within_2_images_of_80_10_10(seed):
    sizes = [40, 31, 22, 17, 11, 9, 7, 6, 5, 4, 3, 2, 2, 1]
    groups = [f"patient-{index}" for index, size in enumerate(sizes) for _ in range(size)]
    split_of = split_groups(groups, SplitConfig(seed=seed))
    counts = [sum(split_of[group] == split for group in groups) for split in SPLITS]
    assert counts == pytest.approx([128, 16, 16], abs=2)


def test_images_that_are_their_own_groups_are_split_80_10_10_exactly():
    split_of = split_groups([f"{index}.jpg" for index in range(250)], SplitConfig())
    counts = [list(split_of.values()).count(split) for split in SPLITS]
    assert counts == [200, 25, 25]


def test_another_seed_gives_another_split():
    groups = [f"patient-{index % 12}" for index in range(48)]
    assert len({tuple(sorted(split_groups(groups, SplitConfig(seed=seed)).items())) for seed in range(10)}) > 5


def test_the_split_of_a_seed_stays_the_same_in_every_version():
    groups = [f"patient-{index}" for index in range(10)]
    split_of = split_groups(groups, SplitConfig(seed=7))
    assert {split: [group for group in groups if split_of[group] == split] for split in ("val", "test")} == {
        "val": ["patient-9"],
        "test": ["patient-4"],
    }


def test_a_share_of_zero_leaves_a_split_empty():
    split_of = split_groups([f"{index}.jpg" for index in range(20)], SplitConfig(fractions=(0.75, 0.25, 0)))
    counts = [list(split_of.values()).count(split) for split in SPLITS]
    assert counts == [15, 5, 0]


def test_groups_are_found_by_a_pattern_in_the_path():
    config = SplitConfig(group_pattern=r"(patient-\d+)")
    placed = place_images(["slides/patient-07_field-2.jpg", "patient-11/a.jpg"], config)
    assert [placement.group for placement in placed.values()] == ["patient-07", "patient-11"]


def test_an_image_in_which_the_pattern_finds_no_group_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match=r"finds no group in 'field-2\.jpg'"):
        place_images(["patient-1.jpg", "field-2.jpg"], SplitConfig(group_pattern=r"(patient-\d+)"))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"fractions": (0.8, 0.1, 0.2)}, "add up to 1"),
        ({"fractions": (1.2, -0.1, -0.1)}, "add up to 1"),
        ({"fractions": (0, 0.5, 0.5)}, "some for train"),
        ({"group_pattern": "(patient"}, "not a regular expression"),
        ({"group_pattern": "patient"}, "has 0 capture groups; one is needed"),
        ({"group_pattern": "(a)", "split_csv": "split.csv"}, "give one"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        SplitConfig(**settings)


def write_csv(folder, *lines):
    path = folder / "split.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_a_table_gives_group_and_split_and_images_it_lacks_are_absent(tmp_path):
    path = write_csv(tmp_path, "group,image,split", "s-0,a.jpg,train", "s-1,b.jpg,val")
    placed = place_images(["deep/a.jpg", "b.jpg", "c.jpg"], SplitConfig(split_csv=path))
    assert placed == {
        "deep/a.jpg": Placement(group="s-0", split="train"),
        "b.jpg": Placement(group="s-1", split="val"),
    }


def test_a_bare_name_in_a_table_is_never_taken_for_two_pictures(tmp_path):
    path = write_csv(tmp_path, "image,group,split", "001.png,s-0,train", "b/002.png,s-1,val", "002.png,s-2,test")
    config = SplitConfig(split_csv=path)
    with pytest.raises(ConfigError, match=r"'001.png' may be 'a/001.png' or 'b/001.png'; write their paths"):
        place_images(["a/001.png", "b/001.png"], config)
    assert set(place_images(["001.png", "b/001.png"], config)) == {"001.png"}
    placed = place_images(["a/002.png", "b/002.png"], config)
    assert {image: placement.group for image, placement in placed.items()} == {"a/002.png": "s-2", "b/002.png": "s-1"}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["image,group", "a.jpg,s"], "image, group and split are needed"),
        ([""], "image, group and split are needed"),
        (["image,group,split", "a.jpg,s,holdout"], "line 2 has group 's' and split 'holdout'"),
        (["image,group,split", "a.jpg,,val"], "line 2 has group ''"),
        (["image,group,split", "a.jpg,s"], "line 2 has group 's' and split None"),
        (["image,group,split", "a.jpg,s,val", "b.jpg,s,train"], "group 's' is in val and in train"),
        (
            ["image,group,split", "a.jpg,s,val", "a.jpg,t,train"],
            r"line 3 gives 'a.jpg' a second, different place",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_line(tmp_path, lines, problem):
    with pytest.raises(ConfigError, match=problem):
        read_split_csv(write_csv(tmp_path, *lines))


def test_a_table_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="could not be read"):
        read_split_csv(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_split_csv(tmp_path / "binary.csv")
