"""Which picture an annotation means: no picture becomes a field without cells, or with some of them, in silence."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spermseg.dataset.dataset import open_dataset
from spermseg.dataset.prepare import PrepareConfig, PrepareSummary, SplitConfig, prepare_dataset
from spermseg.errors import ConfigError, DatasetError
from spermseg.storage.filesystem import Location

NFC, NFD = (unicodedata.normalize(form, "Müller.png") for form in ("NFC", "NFD"))
NAMES = ("a.png", "b.png", "c.png")
MALFORMED, TWICE = "malformed annotation", "annotated twice"


def square(at: int) -> list[int]:
    return [at, at, at + 9, at, at + 9, at + 9, at, at + 9]


def coco(image_ids=(0, 1, 2), owners=(0, 1, 2), names=NAMES, **changes) -> dict:
    """Return a file that draws one head on each picture: the picture of `owners[i]` gets the i-th."""
    return {
        "images": [{"id": key, "file_name": name} for key, name in zip(image_ids, names, strict=True)],
        "categories": [{"id": 1, "name": "Head"}],
        "annotations": [
            {"id": number, "image_id": key, "category_id": 1, "segmentation": [square(3 + number)]}
            for number, key in enumerate(owners)
        ],
    } | changes


def draw(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([number, len(list(path.parent.iterdir()))]).integers(0, 255, (32, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def prepare(folder: Path, *files: dict | str, **settings) -> PrepareSummary:
    """Prepare the pictures of a folder with these annotation files."""
    (folder / "json").mkdir(exist_ok=True)
    for number, content in enumerate(files):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "json" / f"x{number}.json").write_text(text)
    config = PrepareConfig(**settings)
    return prepare_dataset(folder / "images", folder / "json", Location(str(folder / "out")), config)


def regions(summary: PrepareSummary) -> dict[str, int]:
    """Return how many regions each picture has."""
    return {example.image: example.n_regions for example in summary.dataset.all_examples}


def left_out(summary: PrepareSummary) -> dict[str, str]:
    return {item.file: item.reason for item in summary.left_out}


@pytest.mark.parametrize(
    ("image_ids", "owners"),
    [
        ((0, 1, 2), ("0", "1", "2")),
        (("0", "1", "2"), (0, 1, 2)),
        ((139, 285, 632), ("000000000139", "000000000285", " 632")),
        ((0, 1, 2), (0.0, "1.0", "2.")),
        (("01", "1", "x"), ("01", "1", "x")),
    ],
    ids=str,
)
def test_coco_ids_are_the_same_whether_they_are_written_as_numbers_or_as_texts(tmp_path, image_ids, owners):
    draw(tmp_path, *NAMES)
    summary = prepare(tmp_path, coco(image_ids, owners))
    assert regions(summary) == dict.fromkeys(NAMES, 1)
    assert summary.left_out == ()


def test_a_number_that_is_several_ids_costs_the_pictures_of_all_of_them(tmp_path):
    draw(tmp_path, *NAMES)
    summary = prepare(tmp_path, coco(("007", "7", "x"), (7, "x", "x")))
    assert regions(summary) == {NAMES[2]: 2}
    assert left_out(summary) == dict.fromkeys(NAMES[:2], MALFORMED)


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ({"image_id": 101}, "no image has the id 101"),
        ({"image_id": None}, "annotations[1].image_id.int"),
        ({"image_id": [1]}, "annotations[1].image_id.int"),
        ({"item_id": 1}, "annotations[1].image_id: Field required"),
        ({"image_id": "b.png"}, "no image has the id b.png"),
    ],
    ids=str,
)
def test_a_coco_annotation_that_names_no_picture_costs_every_picture_that_it_may_be_of(tmp_path, owner, said):
    draw(tmp_path, *NAMES, "d.png")
    content = coco()
    del content["annotations"][1]["image_id"]
    content["annotations"][1] |= owner
    other = coco((0,), (0,), ("d.png",))
    summary = prepare(tmp_path, content, other)
    assert regions(summary) == {"d.png": 1}
    assert left_out(summary) == dict.fromkeys(NAMES, MALFORMED)
    for item in summary.left_out:
        assert item.detail.startswith(f"x0.json: {said}" if said[0] == "a" else f"x0.json: annotations[1]: {said}")
        assert "it may be of any picture of the file, so all are left out" in item.detail


@pytest.mark.parametrize("entry", [None, 7, "x", [], {}])
def test_an_annotation_that_is_none_may_be_of_any_picture(tmp_path, entry):
    draw(tmp_path, *NAMES)
    content = coco()
    content["annotations"][0] = entry
    with pytest.raises(DatasetError, match="none of the images"):
        prepare(tmp_path, content)


def test_where_no_picture_can_be_used_each_is_named_with_its_reason_all_the_same(tmp_path):
    draw(tmp_path, *NAMES)
    with pytest.raises(DatasetError, match=r"for the reasons in .*/out/left_out\.csv; the first problem: x0\.json"):
        prepare(tmp_path, coco(owners=(7, 8, 9)))
    lines = (tmp_path / "out" / "left_out.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["file", *NAMES]
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("image_ids", [(0, 0, 1), ("0", 0, 1), ("00", 0.0, 1)], ids=str)
def test_pictures_of_one_coco_id_are_all_left_out_and_cost_no_other(tmp_path, image_ids):
    draw(tmp_path, *NAMES)
    if image_ids[0] == "00":  # two ids, of which an annotation may mean either
        summary = prepare(tmp_path, coco(image_ids, ("0.0", 1, 1)))
    else:
        summary = prepare(tmp_path, coco(image_ids, (0, 0, 1)))
    assert left_out(summary) == dict.fromkeys(NAMES[:2], MALFORMED)
    assert list(regions(summary)) == ["c.png"]


def test_pictures_of_one_coco_id_that_nothing_is_drawn_on_are_no_fields_without_cells(tmp_path):
    draw(tmp_path, *NAMES)
    summary = prepare(tmp_path, coco((0, 0, 1), (1,)))
    assert regions(summary) == {"c.png": 1}
    assert left_out(summary) == dict.fromkeys(NAMES[:2], MALFORMED)


def test_merged_coco_files_in_which_the_ids_begin_again_cost_the_pictures_of_these_ids(tmp_path):
    draw(tmp_path, *NAMES, "d.png")
    summary = prepare(tmp_path, coco((0, 1, 0, 7), (0, 1, 0, 7), (*NAMES, "d.png")))
    assert regions(summary) == {"b.png": 1, "d.png": 1}
    assert left_out(summary) == {"a.png": MALFORMED, "c.png": MALFORMED}


def test_ids_of_annotations_that_are_there_twice_cost_nothing(tmp_path):
    draw(tmp_path, *NAMES)
    content = coco(owners=(0, 0, 1, 2))
    for annotation in content["annotations"]:
        annotation["id"] = 5
    assert regions(prepare(tmp_path, content)) == {"a.png": 2, "b.png": 1, "c.png": 1}


def test_a_picture_that_coco_lists_twice_is_left_out_with_both_halves_of_its_cells(tmp_path):
    draw(tmp_path, "a.png", "b.png")
    summary = prepare(tmp_path, coco(names=("a.png", "a.png", "b.png")))
    assert regions(summary) == {"b.png": 1}
    assert left_out(summary) == {"a.png": TWICE}


def test_a_coco_picture_whose_own_entry_is_malformed_costs_no_other(tmp_path):
    draw(tmp_path, *NAMES)
    content = coco()
    content["images"][0]["width"] = "wide"
    summary = prepare(tmp_path, content)
    assert regions(summary) == {"b.png": 1, "c.png": 1}
    assert left_out(summary) == {"a.png": MALFORMED}


@pytest.mark.parametrize("same", [True, False])
def test_a_coco_category_with_two_names_costs_the_pictures_that_show_it(tmp_path, same):
    draw(tmp_path, *NAMES)
    content = coco(categories=[{"id": "1", "name": "Head"}, {"id": 1, "name": "Head" if same else "Tail"}])
    content["categories"].append({"id": 2, "name": "Tail"})
    content["annotations"][2]["category_id"] = "2"
    summary = prepare(tmp_path, content)
    assert summary.dataset.parts == (("head", "tail") if same else ("tail",))
    assert left_out(summary) == ({} if same else dict.fromkeys(NAMES[:2], MALFORMED))


def via(*names: str) -> dict:
    shape = {"name": "polygon", "all_points_x": square(4)[::2], "all_points_y": square(4)[1::2]}
    region = {"shape_attributes": shape, "region_attributes": {"label": "Head"}}
    return {f"{name}{size}": {"filename": name, "regions": [region]} for size, name in enumerate(names)}


def labelme(name: str, label: str = "Head") -> dict:
    points = list(zip(square(4)[::2], square(4)[1::2], strict=True))
    return {"shapes": [{"label": label, "points": points}], "imagePath": name}


@pytest.mark.parametrize("files", [(via("a.png", "a.png", "b.png"),), (labelme("a.png"), via("a.png", "b.png"))])
def test_a_picture_that_two_entries_name_is_left_out_in_every_format(tmp_path, files):
    draw(tmp_path, "a.png", "b.png")
    summary = prepare(tmp_path, *files)
    assert regions(summary) == {"b.png": 1}
    assert left_out(summary) == {"a.png": TWICE}


def test_a_key_that_a_json_object_has_twice_costs_the_file_since_only_the_last_would_be_read(tmp_path):
    draw(tmp_path, *NAMES)
    once = json.dumps(via("a.png"))[1:-1]
    summary = prepare(tmp_path, f"{{{once}, {once}, {json.dumps(via('b.png', 'b.png'))[1:-1]}}}", labelme("c.png"))
    assert list(regions(summary)) == ["c.png"]
    assert left_out(summary) == {"x0.json": MALFORMED, "a.png": "no annotation", "b.png": "no annotation"}
    assert "an object has 'a.png0' twice; keep one" in summary.left_out[0].detail


@pytest.mark.parametrize("on_disk", [NFC, NFD], ids=["one letter on disk", "two letters on disk"])
@pytest.mark.parametrize("named", [NFC, NFD], ids=["one letter in the file", "two letters in the file"])
@pytest.mark.parametrize("format_of", [lambda name: coco((0,), (0,), (name,)), via, labelme], ids=["coco", "via", "lm"])
def test_a_picture_is_found_however_the_letters_of_its_name_are_composed(tmp_path, on_disk, named, format_of):
    draw(tmp_path, f"p/{on_disk}")
    summary = prepare(tmp_path, format_of(named), split=SplitConfig(group_pattern=f"({named[:-4]})"))
    (example,) = summary.dataset.all_examples
    assert (example.image, example.group, example.n_regions) == (f"p/{NFC}", "Müller", 1)
    assert open_dataset(Location(str(tmp_path / "out"))).read_image(example).shape == (32, 40, 3)


def test_an_annotation_file_is_found_by_its_own_name_however_its_letters_are_composed(tmp_path):
    draw(tmp_path, NFC, "b.png")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / NFD).with_suffix(".json").write_text(json.dumps(labelme("")))
    assert regions(prepare(tmp_path, labelme("b.png"))) == {NFC: 1, "b.png": 1}


def test_two_files_that_have_one_name_are_left_out_both_rather_than_one_chosen(tmp_path):
    draw(tmp_path, NFC, NFD, "b.png")
    summary = prepare(tmp_path, labelme(NFD), labelme("b.png"))
    assert regions(summary) == {"b.png": 1}
    both = [item for item in summary.left_out if item.file == NFC]
    assert [item.reason for item in both] == ["two files of one name"] * 2


def test_a_table_of_groups_and_labels_are_compared_however_they_are_composed(tmp_path):
    draw(tmp_path, NFC, "b.png")
    (tmp_path / "split.csv").write_text(f"image,group,split\n{NFD},Mu\u0308ller,train\nb.png,M\u00fcller,train\n")
    split = SplitConfig(split_csv=tmp_path / "split.csv")
    files = labelme(NFC, "Ko\u0308pf"), labelme("b.png", "K\u00f6pf")
    summary = prepare(tmp_path, *files, split=split, labels={"Ko\u0308pf": "head"})
    assert {example.group for example in summary.dataset.all_examples} == {"Müller"}
    assert summary.dataset.parts == ("head",)
    (tmp_path / "split.csv").write_text(f"image,group,split\n{NFD},Mu\u0308ller,train\nb.png,M\u00fcller,val\n")
    with pytest.raises(ConfigError, match="'Müller' is in train and in val"):
        prepare(tmp_path, *files, split=split, overwrite=True)


@pytest.mark.parametrize("name", ["=1+1.png", "-x.png", "'=y.png", "a;=1.png", '"=1.png', "Müller 精子 (2).png"])
def test_a_picture_whose_name_a_spreadsheet_would_calculate_is_read_back_by_its_name(tmp_path, name):
    draw(tmp_path, name)
    dataset = prepare(tmp_path, labelme(name)).dataset
    (example,) = dataset.all_examples
    assert example.image == name
    assert dataset.read_image(example).shape == (32, 40, 3)
    again = prepare(tmp_path, split=SplitConfig(split_csv=tmp_path / "out" / "index.csv"), overwrite=True)
    assert regions(again) == {name: 1}


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[2J.png", "a\u202egnp.png"])
def test_a_picture_whose_name_cannot_be_seen_is_left_out_and_named_visibly(tmp_path, name):
    draw(tmp_path, name, "b.png")
    summary = prepare(tmp_path, labelme(name), labelme("b.png"))
    assert list(regions(summary)) == ["b.png"]
    lines = (tmp_path / "out" / "left_out.csv").read_text().split("\n")
    assert lines[1].startswith("a\\")
    assert ",name has characters that cannot be seen," in lines[1]
    assert all(line.isprintable() for line in lines)


def test_what_prepare_writes_is_its_owners_alone(tmp_path):
    draw(tmp_path, "a.png")
    prepare(tmp_path, labelme("a.png"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert modes.pop("images") == modes.pop("masks") == 0o700
    assert set(modes.values()) == {0o600}
