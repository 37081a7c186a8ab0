"""Folders of images and annotations -> a dataset, with every file accounted for."""

import csv
import errno
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spermseg.dataset.dataset import open_dataset
from spermseg.dataset.prepare import PrepareConfig, SplitConfig, prepare_dataset
from spermseg.errors import AnnotationError, ConfigError, DatasetError, MicrographError
from spermseg.storage import patience
from spermseg.storage.filesystem import Location

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "sperm-parsing"
WIDTH, HEIGHT = 64, 48
HEAD = [[10.5, 10.5], [20.5, 10.5], [20.5, 18.5], [10.5, 18.5]]


def draw(folder, name, size=(WIDTH, HEIGHT), orientation=None):
    path = folder / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(name.encode())).integers(0, 255, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def annotate(folder, name, image=None, *, label="Head", points=HEAD, width=WIDTH, height=HEIGHT, n_regions=1):
    shape = {"label": label, "points": points, "group_id": 1, "shape_type": "polygon"}
    content = {
        "shapes": [shape] * n_regions,
        "imagePath": name if image is None else image,
        "imageWidth": width,
        "imageHeight": height,
    }
    path = (folder / "annotations" / name).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def clinic(tmp_path):
    """Twelve images of four patients, all of them usable."""
    for index in range(12):
        name = f"patient-{index % 4}_field-{index}.png"
        draw(tmp_path, name)
        annotate(tmp_path, name)
    return tmp_path


def prepare(folder, out="dataset", **settings):
    config = PrepareConfig(**settings)
    return prepare_dataset(folder / "images", folder / "annotations", Location(str(folder / out)), config)


def left_out(summary):
    return {(item.file, item.reason) for item in summary.left_out}


def test_every_image_becomes_an_example_and_no_group_is_cut(clinic):
    summary = prepare(clinic, split=SplitConfig(group_pattern=r"(patient-\d)"))
    assert summary.left_out == ()
    assert sum(summary.counts.values()) == 12
    assert sum(summary.groups.values()) == 4
    assert min(summary.counts.values()) >= 3
    dataset = open_dataset(Location(str(clinic / "dataset")))
    assert dataset == summary.dataset
    for example in dataset.all_examples:
        assert example.group == example.image[:9]
        assert (clinic / "dataset/images" / example.image).read_bytes() == (
            clinic / "images" / example.image
        ).read_bytes()
        mask = dataset.read_mask(example, "head")
        assert mask[10:18, 10:20].all()
        assert mask.sum() == 80


def test_preparing_twice_gives_the_same_dataset(clinic):
    first = prepare(clinic, threads=1).dataset
    second = prepare(clinic, "again", threads=4).dataset
    assert (first.sha256, first.all_examples) == (second.sha256, second.all_examples)
    assert prepare(clinic, "other", split=SplitConfig(seed=1)).dataset.sha256 != first.sha256


@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_network_folder_that_is_away_for_a_moment_costs_no_picture(clinic, monkeypatch, call):
    patience.be_patient(patience.Patience(longest_wait_s=0.01))
    function, calls = getattr(os, call), itertools.count()

    def fail_at_first(path, *arguments, **options):
        if str(clinic) in os.fsdecode(path) and next(calls) < 3:
            raise OSError(errno.EIO, "gone")
        return function(path, *arguments, **options)

    monkeypatch.setattr(os, call, fail_at_first)
    assert sum(prepare(clinic).counts.values()) == 12
    assert next(calls) > 3


def add_no_annotation(folder):
    draw(folder, "x.png")
    return "x.png", "no annotation"


def add_no_image(folder):
    annotate(folder, "x.png")
    return "x.json", "no image"


def add_size_mismatch(folder):
    draw(folder, "x.png", size=(32, 48))
    annotate(folder, "x.png")
    return "x.png", "size mismatch"


def add_outside(folder):
    draw(folder, "x.png")
    annotate(folder, "x.png", points=[[10, 10], [90, 10], [10, 20]])
    return "x.png", "outside the image"


def add_unknown_label(folder):
    draw(folder, "x.png")
    annotate(folder, "x.png", label="Flagellum")
    return "x.png", "unknown label"


def add_unreadable(folder):
    draw(folder, "x.png")
    path = folder / "images/x.png"
    path.write_bytes(path.read_bytes()[:900])
    annotate(folder, "x.png")
    return "x.png", "unreadable image"


def add_malformed(folder):
    draw(folder, "x.png")
    (folder / "annotations/x.json").write_text("{")
    return "x.json", "malformed annotation"


def add_annotated_twice(folder):
    draw(folder, "x.png")
    annotate(folder, "x.png")
    annotate(folder, "y.png", "x.png")
    return "x.png", "annotated twice"


def add_ambiguous(folder):
    draw(folder, "one/patient-0_field-0.png")
    annotate(folder, "one/patient-0_field-0.png")
    draw(folder, "two/x.png")
    draw(folder, "three/x.png")
    annotate(folder, "two/x.png")
    annotate(folder, "three/x.png")
    annotate(folder, "z.png", "x.png")
    return "z.json", "ambiguous image name"


def add_in_two_groups(folder):
    data = (folder / "images/patient-0_field-0.png").read_bytes()
    (folder / "images/x.png").write_bytes(data)
    annotate(folder, "x.png")
    return "x.png", "same picture in two groups"


def add_name_not_text(folder):
    draw(folder, "x.png")
    (folder / "images/x.png").rename(folder / "images/x-M\udcfcller.png")
    return "x-M\\xfcller.png", "name is not UTF-8"


PROBLEMS = [
    (add_in_two_groups, DatasetError),
    (add_name_not_text, DatasetError),
    (add_no_annotation, AnnotationError),
    (add_no_image, AnnotationError),
    (add_size_mismatch, AnnotationError),
    (add_outside, AnnotationError),
    (add_unknown_label, AnnotationError),
    (add_unreadable, MicrographError),
    (add_malformed, AnnotationError),
    (add_annotated_twice, AnnotationError),
    (add_ambiguous, AnnotationError),
]


@pytest.mark.parametrize(("add", "kind"), PROBLEMS)
def test_a_file_that_cannot_be_used_is_left_out_once_with_its_reason_or_stops_all_where_strict(clinic, add, kind):
    file, reason = add(clinic)
    summary = prepare(clinic, labels={"Head": "head"})
    assert left_out(summary) == {(file, reason)}
    assert summary.reasons == {reason: 1}
    (problem,) = summary.left_out
    assert Path(file).stem in problem.detail
    assert "\n" not in problem.detail
    used = {example.image for example in summary.dataset.all_examples}
    assert len(used) == 12 + 3 * (add is add_ambiguous)
    with (clinic / "dataset/left_out.csv").open() as lines:
        assert [row["reason"] for row in csv.DictReader(lines)] == [reason]
    with pytest.raises(kind) as caught:
        prepare(clinic, "strict", labels={"Head": "head"}, strict=True)
    assert caught.value.message == problem.detail
    assert not (clinic / "strict/dataset.json").exists()


def test_an_image_without_cells_is_an_example_and_is_counted(clinic):
    draw(clinic, "empty.png")
    annotate(clinic, "empty.png", n_regions=0)
    summary = prepare(clinic)
    (empty,) = [example for example in summary.dataset.all_examples if not example.n_regions]
    assert (summary.n_empty, empty.image, empty.foreground_fraction) == (1, "empty.png", 0)


def test_images_of_one_stem_and_of_one_name_in_two_folders_do_not_collide(tmp_path):
    for name in ("a.png", "a.bmp", "deep/a.png"):
        draw(tmp_path, name)
    annotate(tmp_path, "a-png.json", "a.png")
    annotate(tmp_path, "a-bmp.json", "a.bmp")
    annotate(tmp_path, "deep/a.json", "a.png", points=HEAD[:3])
    summary = prepare(tmp_path)
    assert summary.left_out == ()
    shares = {example.image: example.foreground_fraction for example in summary.dataset.all_examples}
    assert shares["a.png"] == shares["a.bmp"] > 1.5 * shares["deep/a.png"]
    assert len({example.mask for example in summary.dataset.all_examples}) == 3


@pytest.mark.parametrize("named", ["../images/deep/a.png", "D:\\smears\\deep\\a.png", "deep/a.png"])
def test_of_two_images_of_one_name_the_one_in_the_named_folder_is_meant(tmp_path, named):
    draw(tmp_path, "a.png")
    draw(tmp_path, "deep/a.png")
    annotate(tmp_path, "first.json", named)
    summary = prepare(tmp_path)
    assert left_out(summary) == {("a.png", "no annotation")}


def test_one_patients_annotation_is_never_put_on_the_picture_of_another(tmp_path):
    draw(tmp_path, "patient-1/field-1.png")
    draw(tmp_path, "patient-2/field-7.png")
    annotate(tmp_path, "patient-1/field-1.png", "field-1.png")
    annotate(tmp_path, "patient-1/field-7.png", "field-7.png")  # whose own picture is missing
    summary = prepare(tmp_path)
    assert left_out(summary) == {("patient-1/field-7.json", "no image"), ("patient-2/field-7.png", "no annotation")}


def test_nor_on_a_picture_that_lies_above_the_folders_of_the_patients(tmp_path):
    draw(tmp_path, "field-7.png")
    draw(tmp_path, "patient-1/field-1.png")
    annotate(tmp_path, "patient-1/field-1.png", "field-1.png")
    annotate(tmp_path, "patient-1/field-7.png", "field-7.png")
    summary = prepare(tmp_path)
    assert left_out(summary) == {("patient-1/field-7.json", "no image"), ("field-7.png", "no annotation")}


def test_nor_where_annotations_have_a_folder_of_their_own_beside_the_pictures(tmp_path):
    draw(tmp_path, "patient-1/images/field-1.png")
    draw(tmp_path, "patient-2/images/field-7.png")
    annotate(tmp_path, "patient-1/json/field-1.png", "../images/field-1.png")
    annotate(tmp_path, "patient-1/json/field-7.png", "../images/field-7.png")
    summary = prepare(tmp_path)
    assert left_out(summary) == {
        ("patient-1/json/field-7.json", "no image"),
        ("patient-2/images/field-7.png", "no annotation"),
    }


def test_pictures_of_one_name_in_the_folders_of_several_patients_are_told_apart(tmp_path):
    for patient in ("patient-1", "patient-2"):
        draw(tmp_path, f"{patient}/images/1.png")
        draw(tmp_path, f"{patient}/images/2.png")
        annotate(tmp_path, f"{patient}/json/1.png", "1.png")
        annotate(tmp_path, f"{patient}/json/2.png", "")
    assert prepare(tmp_path).left_out == ()


def test_a_picture_that_is_named_by_its_place_is_the_one_whatever_lies_below_the_annotation(tmp_path):
    draw(tmp_path, "p1/x.png")
    draw(tmp_path, "p1/json/overlays/x.png")
    annotate(tmp_path, "p1/json/x.png", "../x.png")
    assert left_out(prepare(tmp_path)) == {("p1/json/overlays/x.png", "no annotation")}


def test_of_several_pictures_of_a_bare_name_none_is_guessed(tmp_path):
    draw(tmp_path, "p1/x.png")
    draw(tmp_path, "p1/json/overlays/x.png")
    annotate(tmp_path, "p1/json/x.png", "x.png")
    with pytest.raises(DatasetError, match=r"may be p1/json/overlays/x\.png or p1/x\.png; name the folder too"):
        prepare(tmp_path)


def test_what_is_ignored_may_lie_anywhere(clinic):
    draw(clinic, "x.png")
    annotate(clinic, "x.png", label="Ruler", points=[[10, 10], [90, 10], [10, 20]])
    assert prepare(clinic, labels={"Head": "head", "Ruler": "ignore"}).left_out == ()


def test_an_annotation_that_names_no_image_is_found_by_its_own_name(clinic):
    draw(clinic, "x.png")
    annotate(clinic, "x.png", "C:\\moved\\renamed.tif")
    assert prepare(clinic).left_out == ()


@pytest.mark.parametrize("declared", [(WIDTH, HEIGHT), (HEIGHT, WIDTH)])
def test_an_exif_rotated_image_and_its_mask_are_both_upright(tmp_path, declared):
    draw(tmp_path, "x.jpg", orientation=6)  # stored 64 x 48, shown 48 x 64
    annotate(tmp_path, "x.jpg", width=declared[0], height=declared[1])
    dataset = prepare(tmp_path).dataset
    (example,) = dataset.all_examples
    mask, image = dataset.read_mask(example), dataset.read_image(example)
    assert mask.shape == image.shape[:2] == (example.height, example.width) == (WIDTH, HEIGHT)
    upright = np.zeros((HEIGHT, WIDTH), bool)
    upright[10:18, 10:20] = True
    expected = np.rot90(upright, -1) if declared == (WIDTH, HEIGHT) else np.zeros((WIDTH, HEIGHT), bool)
    if declared == (HEIGHT, WIDTH):
        expected[10:18, 10:20] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_a_bright_cell_stays_under_its_mask_however_the_camera_was_held(tmp_path, orientation):
    (tmp_path / "images").mkdir()
    shown = np.zeros((WIDTH, HEIGHT, 3), np.uint8)
    shown[10:18, 10:20] = 255
    stored = Image.fromarray(shown)
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    undo |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = stored.transpose(Image.Transpose[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "images/x.png", exif=exif)
    annotate(tmp_path, "x.png", width=HEIGHT, height=WIDTH)
    dataset = prepare(tmp_path).dataset
    (example,) = dataset.all_examples
    np.testing.assert_array_equal(dataset.read_mask(example), dataset.read_image(example)[..., 0] > 0)


def test_one_coco_file_for_all_images_with_one_faulty_entry_costs_one_image(clinic):
    names = sorted(path.name for path in (clinic / "images").iterdir())
    content = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(names)],
        "categories": [{"id": 1, "name": "Head"}],
        "annotations": [
            {"image_id": index, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]} for index in range(12)
        ],
    }
    content["annotations"][3]["segmentation"] = "lost"
    (clinic / "all.json").write_text(json.dumps(content))
    out = Location(str(clinic / "dataset"))
    summary = prepare_dataset(clinic / "images", clinic / "all.json", out, PrepareConfig())
    assert left_out(summary) == {(names[3], "malformed annotation")}
    assert sum(summary.counts.values()) == 11


def test_a_split_table_is_followed_and_images_it_lacks_are_left_out(clinic):
    names = sorted(path.name for path in (clinic / "images").iterdir())
    rows = [f"{name},{name[:9]},{'val' if name[:9] == 'patient-3' else 'train'}" for name in names[1:]]
    (clinic / "split.csv").write_text("\n".join(["image,group,split", *rows]))
    summary = prepare(clinic, split=SplitConfig(split_csv=clinic / "split.csv"))
    assert summary.counts == {"train": 8, "val": 3, "test": 0}
    assert left_out(summary) == {(names[0], "not in the split CSV")}
    with pytest.raises(DatasetError, match="the split CSV has no line for it"):
        prepare(clinic, "strict", split=SplitConfig(split_csv=clinic / "split.csv"), strict=True)


def test_a_dataset_is_replaced_only_on_request(clinic):
    prepare(clinic)
    with pytest.raises(DatasetError, match="holds a dataset already"):
        prepare(clinic)
    assert prepare(clinic, overwrite=True, split=SplitConfig(seed=3)).dataset.description.split_settings["seed"] == 3


def test_folders_that_cannot_be_used_are_errors(clinic):
    config = PrepareConfig()
    out = Location(str(clinic / "dataset"))
    with pytest.raises(ConfigError, match="does not exist"):
        prepare_dataset(clinic / "absent", clinic / "annotations", out, config)
    with pytest.raises(ConfigError, match="write it elsewhere"):
        prepare(clinic, "images/dataset")
    (clinic / "void").mkdir()
    with pytest.raises(ConfigError, match="holds no file"):
        prepare_dataset(clinic / "void", clinic / "annotations", out, config)
    (clinic / "void" / "readme.txt").write_text("none here")
    with pytest.raises(DatasetError, match="found no images in"):
        prepare_dataset(clinic / "void", clinic / "annotations", out, config)
    with pytest.raises(DatasetError, match="found no annotations in"):
        prepare_dataset(clinic / "images", clinic / "void", out, config)


def test_nothing_usable_is_an_error_with_the_first_reason(tmp_path):
    draw(tmp_path, "x.png")
    annotate(tmp_path, "x.png", width=5)
    with pytest.raises(DatasetError, match=r"none of the images .* the first problem: x\.json: annotated on 5 x 48 px"):
        prepare(tmp_path)


def test_progress_sees_every_image(clinic):
    seen = []

    def progress(tasks):
        seen.append(len(tasks))
        return iter(tasks)

    out = Location(str(clinic / "dataset"))
    prepare_dataset(clinic / "images", clinic / "annotations", out, PrepareConfig(), progress)
    assert seen == [12]


def test_a_dataset_is_prepared_on_s3(clinic, moto_server):
    out = moto_server.new_bucket().child("datasets", "first")
    summary = prepare_dataset(clinic / "images", clinic / "annotations", out, PrepareConfig())
    assert open_dataset(out) == summary.dataset
    with pytest.raises(DatasetError, match="holds a dataset already"):
        prepare_dataset(clinic / "images", clinic / "annotations", out, PrepareConfig())


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real micrographs are absent: no {REAL}")
def test_all_of_the_real_micrographs_can_be_used(tmp_path):
    config = PrepareConfig(split=SplitConfig(split_csv=REAL / "split.csv"))
    out = Location(str(tmp_path / "dataset"))
    summary = prepare_dataset(REAL / "images", REAL / "annotations", out, config)
    assert summary.left_out == ()
    assert summary.counts == {"train": 201, "val": 49, "test": 0}
    assert summary.dataset.parts == ("acrosome", "midpiece", "nucleus", "tail", "vacuole")
    shares = [example.foreground_fraction for example in summary.dataset.all_examples]
    assert np.mean(shares) == pytest.approx(0.051, abs=0.001)
