"""The synthetic clinic: its good files are good, its broken ones broken, and the counts it promises are true."""

import io
import json
import tarfile
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from spermseg.annotation.formats import read_annotations
from spermseg.errors import ConfigError, MicrographError, ObjectExistsError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.synthetic.clinic import ClinicConfig, field_config, write_clinic
from spermseg.synthetic.draw import DrawConfig, draw_micrograph

SMALL = ClinicConfig(
    patients=3,
    fields=4,
    upload_patients=4,
    upload_fields=5,
    draw=DrawConfig(height=96, width=128, scale=0.2, cells=(1, 5)),
)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    return write_clinic(tmp_path_factory.mktemp("clinic"), SMALL)


def uploaded_files(clinic):
    """Every upload as (where, content), archives opened."""
    for path in sorted(clinic.uploads.rglob("*")):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path.name}!{name}", archive.read(name)) for name in archive.namelist())
        elif path.suffix == ".tar":
            with tarfile.open(path) as archive:
                yield from ((f"{path.name}!{m.name}", archive.extractfile(m).read()) for m in archive.getmembers())
        elif path.is_file():
            yield path.relative_to(clinic.uploads).as_posix(), path.read_bytes()


def readable_by_opencv(content):
    return bool(content) and cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None


def readable_by_pillow(content):
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return True


def readable_by_spermseg(content):
    try:
        decode_micrograph(content)
    except MicrographError:
        return False
    return True


@pytest.mark.parametrize("readable", [readable_by_pillow, readable_by_spermseg])
def test_as_many_uploads_are_readable_and_broken_as_the_clinic_says(clinic, readable):
    verdicts = [readable(content) for _, content in uploaded_files(clinic)]
    assert clinic.expected == {
        "planned": len(verdicts),
        "ok": sum(verdicts),
        "rejected": len(verdicts) - sum(verdicts),
    }
    assert clinic.expected == {"planned": 23, "ok": 20, "rejected": 3}


def test_every_good_upload_is_readable_by_opencv_too(clinic):
    # OpenCV fills a broken-off JPEG with grey and calls it a picture, so only the good ones are asked.
    for where, content in uploaded_files(clinic):
        if readable_by_pillow(content):
            assert readable_by_opencv(content), where


def test_the_broken_uploads_are_three_kinds_of_broken(clinic):
    broken = {where: content for where, content in uploaded_files(clinic) if not readable_by_pillow(content)}
    assert sorted(where.rpartition("/")[2] for where in broken) == [
        "field-broken-off.jpg",
        "field-empty.jpg",
        "notes.jpg",
    ]
    by_name = {where.rpartition("/")[2]: content for where, content in broken.items()}
    assert by_name["field-empty.jpg"] == b""
    assert by_name["notes.jpg"].isascii()
    assert by_name["field-broken-off.jpg"].startswith(b"\xff\xd8")
    assert Image.open(io.BytesIO(by_name["field-broken-off.jpg"])).size  # its header is whole, its pixels are not


def test_all_four_formats_are_uploaded_plain_and_in_archives(clinic):
    formats = {"plain": set(), "courier.zip": set(), "archive.tar": set()}
    for where, content in uploaded_files(clinic):
        archive, inside, _ = where.partition("!")
        if readable_by_pillow(content):
            formats[archive if inside else "plain"].add(Image.open(io.BytesIO(content)).format)
    assert set(map(frozenset, formats.values())) == {frozenset({"JPEG", "PNG", "TIFF", "BMP"})}


def test_the_zip_has_stored_and_deflated_members_in_nested_folders(clinic):
    with zipfile.ZipFile(clinic.uploads / "courier.zip") as archive:
        members = archive.infolist()
    assert {m.compress_type for m in members} == {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    assert all(m.filename.count("/") == 2 for m in members)
    assert {m.date_time for m in members} == {(2026, 3, 14, 9, 0, 0)}  # of the clock, it would change the bytes


def test_exactly_one_upload_lies_on_its_side_until_its_exif_tag_is_heeded(clinic):
    turned = []
    for where, content in uploaded_files(clinic):
        if readable_by_pillow(content):
            picture = Image.open(io.BytesIO(content))
            assert ImageOps.exif_transpose(picture).size == (128, 96), where
            turned += [where] if picture.size == (96, 128) else []
    assert turned == ["patient-04/field-1.jpg"]


def test_the_turned_upload_is_upright_once_its_tag_is_heeded(clinic):
    """It has to show the same field as it would unturned: light falls and cells lie the same way round."""
    shown = decode_micrograph((clinic.uploads / "patient-04/field-1.jpg").read_bytes()).pixels
    drawn = draw_micrograph(*field_config(SMALL, 4, 1)).pixels
    assert np.abs(shown.astype(int) - drawn).mean() < 4


def test_every_training_image_has_an_annotation_of_its_size_and_name(clinic):
    images = sorted(clinic.images.iterdir())
    assert len(images) == clinic.training_images == 12
    assert {path.suffix for path in images} == {".jpg", ".png"}
    assert sorted(p.stem for p in clinic.annotations.iterdir()) == [p.stem for p in images]
    for image in images:
        (annotation,) = read_annotations(clinic.annotations / f"{image.stem}.json")
        width, height = Image.open(image).size
        assert (annotation.image_name, annotation.width, annotation.height) == (image.name, width, height)


def test_labels_lie_on_the_cells_of_the_written_images(clinic):
    """A label's inside is darker than the picture as a whole."""
    for path in clinic.annotations.glob("*.json"):
        content = json.loads(path.read_text())
        grey = cv2.imread(str(clinic.images / content["imagePath"]), cv2.IMREAD_GRAYSCALE)
        heads = [s for s in content["shapes"] if s["label"] == "Head"]
        for x, y in (np.mean(shape["points"], axis=0) for shape in heads):
            assert grey[int(y), int(x)] < np.median(grey) - 20


def test_training_and_upload_patients_are_different_people(clinic):
    training = {path.name[:10] for path in clinic.images.iterdir()}
    uploads = {part for where, _ in uploaded_files(clinic) for part in where.replace("!", "/").split("/")}
    assert training == {"patient-01", "patient-02", "patient-03"}
    assert not training & uploads
    assert {"patient-04", "patient-05", "patient-06", "patient-07"} <= uploads


def test_no_two_pictures_of_the_clinic_are_the_same(clinic):
    contents = [content for _, content in uploaded_files(clinic)]
    contents += [path.read_bytes() for path in clinic.images.iterdir()]
    assert len(set(contents)) == len(contents)


def test_the_same_config_writes_the_same_bytes_and_another_seed_does_not(clinic, tmp_path):
    def files(root):
        return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    first = files(clinic.uploads.parent)
    write_clinic(tmp_path / "again", SMALL)
    write_clinic(tmp_path / "other", replace(SMALL, seed=1))
    assert files(tmp_path / "again") == first
    other = files(tmp_path / "other")
    assert other.keys() == first.keys()
    same = [path.name for path in first if first[path] == other[path]]
    assert sorted(same) == ["field-empty.jpg", "notes.jpg"]


def test_progress_sees_every_patient(tmp_path):
    seen = []

    def progress(patients):
        for patient in patients:
            seen.append(patient)
            yield patient

    write_clinic(tmp_path, SMALL, progress)
    assert seen == list(range(1, 8))


def test_a_clinic_that_is_there_is_not_mixed_with_another(clinic):
    with pytest.raises(ObjectExistsError, match="exists already; give a new folder"):
        write_clinic(clinic.uploads.parent, replace(SMALL, seed=3))


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"patients": 2}, {"fields": 0}, {"upload_patients": 3}])
def test_a_clinic_too_small_to_show_everything_is_refused_in_one_line(wrong):
    with pytest.raises(ConfigError, match=r"got .*; give") as error:
        ClinicConfig(**wrong)
    assert "\n" not in error.value.message
