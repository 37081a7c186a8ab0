"""A small synthetic clinic: annotated micrographs to train on, and one night's uploads, three of them broken.

    OUT/training/images/patient-07_field-2.jpg         OUT/training/annotations/patient-07_field-2.json
    OUT/uploads/patient-13/field-1.jpg ...             plain files: JPEG, PNG, TIFF, BMP; one JPEG is rotated (EXIF)
    OUT/uploads/courier.zip, OUT/uploads/archive.tar   archives with a folder for each patient

The same config writes the same bytes.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from spermseg.errors import ConfigError, ObjectExistsError
from spermseg.synthetic.draw import DrawConfig, draw_micrograph, labelme_annotation

CLINIC_DRAW = DrawConfig(height=512, width=640, scale=0.8, cells=(1, 7))
"""The cells are so large that their tails survive a resize of the picture to 256 x 256."""

Picture = NDArray[np.uint8]
"""(Y, X, 3) uint8, RGB."""


@dataclass(frozen=True, kw_only=True)
class ClinicConfig:
    """How large the clinic is, and what its micrographs look like."""

    seed: int = 0
    """Seed of all random numbers; 0 or more."""
    patients: int = 12
    """Patients with annotated micrographs."""
    fields: int = 4
    """Annotated micrographs of each patient."""
    upload_patients: int = 8
    """New patients tonight. Half of them are plain files, a quarter are in a .zip, the rest are in a .tar."""
    upload_fields: int = 5
    """Micrographs of each new patient."""
    draw: DrawConfig = CLINIC_DRAW
    """What a micrograph looks like. Each patient has one slide, with its own stain and light."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"got seed {self.seed}; give 0 or more")
        if self.patients < 3 or self.fields < 1:
            raise ConfigError(
                f"got {self.patients} patients of {self.fields} fields; give at least 3 patients of 1 field, "
                "so that training, validation and test each get one"
            )
        if self.upload_patients < 4 or self.upload_fields < 1:
            raise ConfigError(
                f"got {self.upload_patients} upload patients of {self.upload_fields} fields; give at least 4 of 1, "
                "so that plain files and both archives each get one"
            )


@dataclass(frozen=True, kw_only=True)
class Clinic:
    """Where the clinic's files are, and the result that a run over them must have."""

    images: Path
    """Folder of the annotated micrographs."""
    annotations: Path
    """Folder of their LabelMe JSON, one file a micrograph, of the same stem."""
    uploads: Path
    """Folder of tonight's uploads."""
    training_images: int
    """How many annotated micrographs there are."""
    uploads_ok: int
    """How many good micrographs are among the uploads, archive members included."""
    uploads_broken: int
    """How many broken files are among the uploads."""

    @property
    def expected(self) -> dict[str, int]:
        """The counts that a run over the uploads must have."""
        return {
            "planned": self.uploads_ok + self.uploads_broken,
            "ok": self.uploads_ok,
            "rejected": self.uploads_broken,
        }


def write_clinic(
    out: Path,
    config: ClinicConfig | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Clinic:
    """Draw the clinic and write its files.

    Args:
        out: the folder to write to; it is made where it is missing.
        config: size and look of the clinic; None takes the defaults.
        progress: wraps the sequence of all patients, for a progress bar.

    Raises:
        ObjectExistsError: the folder has a clinic already.
    """
    config = config or ClinicConfig()
    training, uploads = out / "training", out / "uploads"
    for folder in (training, uploads):
        if folder.exists():
            raise ObjectExistsError(f"{folder} exists already; give a new folder, or remove it to draw it again")
    images, annotations = training / "images", training / "annotations"
    images.mkdir(parents=True)
    annotations.mkdir()
    uploaded: list[tuple[str, bytes]] = []
    for patient in progress(range(1, config.patients + config.upload_patients + 1)):
        if patient <= config.patients:
            _write_training(config, patient, images, annotations)
        else:
            uploaded += _draw_uploads(config, patient)
    broken = _break_files(uploaded)
    _write_uploads(uploads, uploaded, broken, config)
    return Clinic(
        images=images,
        annotations=annotations,
        uploads=uploads,
        training_images=config.patients * config.fields,
        uploads_ok=len(uploaded),
        uploads_broken=len(broken),
    )


def _write_training(config: ClinicConfig, patient: int, images: Path, annotations: Path) -> None:
    for number in range(1, config.fields + 1):
        name = f"patient-{patient:02d}_field-{number}.{'png' if number % 4 == 0 else 'jpg'}"
        made = draw_micrograph(*field_config(config, patient, number))
        (images / name).write_bytes(_encode(made.pixels, name))
        text = json.dumps(labelme_annotation(made, name), indent=1)
        (annotations / name).with_suffix(".json").write_text(text, encoding="utf-8")


def field_config(config: ClinicConfig, patient: int, number: int) -> tuple[int, DrawConfig]:
    """Return the arguments of `draw_micrograph` for one field of one patient. All fields of a patient share a slide.

    The uploads have no annotations. Drawing an upload again with these arguments gives its exact outlines.
    """
    slide = 1000 * config.seed + patient
    return 1000 * slide + number, replace(config.draw, slide=slide)


def _draw_uploads(config: ClinicConfig, patient: int) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of a new patient's micrographs, in all four formats. The clinic's first JPEG is rotated."""
    suffixes = ("jpg", "png", "tif", "bmp", "jpeg")
    for number in range(1, config.upload_fields + 1):
        name = f"patient-{patient:02d}/field-{number}.{suffixes[(number - 1) % len(suffixes)]}"
        pixels = draw_micrograph(*field_config(config, patient, number)).pixels
        yield name, _encode(pixels, name, turned=patient == config.patients + 1 and number == 1)


def _encode(pixels: Picture, name: str, turned: bool = False) -> bytes:
    """Return a picture as a file of the format that its name ends in.

    Args:
        pixels: the picture in its upright orientation.
        name: the file name.
        turned: whether the stored pixels are rotated, with an EXIF orientation that rotates them back (JPEG only).
    """
    file = io.BytesIO()
    exif = Image.Exif()
    if turned:
        exif[ExifTags.Base.Orientation] = 6  # viewers rotate the picture by 90 degrees clockwise
        pixels = np.rot90(pixels)
    picture = Image.fromarray(pixels)
    match Path(name).suffix:
        case ".jpg" | ".jpeg":
            picture.save(file, "JPEG", quality=92, exif=exif)
        case ".png":
            picture.save(file, "PNG", compress_level=3)
        case ".tif":
            picture.save(file, "TIFF", compression="tiff_lzw")
        case ".bmp":
            picture.save(file, "BMP")
        case suffix:
            raise ConfigError(f"got {name}, whose format {suffix!r} cannot be written; give jpg, jpeg, png, tif or bmp")
    return file.getvalue()


def _break_files(uploaded: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return three broken uploads: a truncated JPEG, and a text and an empty file with names of JPEG files."""
    folder = Path(uploaded[0][0]).parent.as_posix()
    whole = uploaded[0][1]
    return [
        (f"{folder}/field-broken-off.jpg", whole[: len(whole) // 3]),
        (f"{folder}/notes.jpg", b"Sample taken 2026-03-14, two hours late. Please repeat.\n"),
        (f"{folder}/field-empty.jpg", b""),
    ]


def _write_uploads(
    uploads: Path, uploaded: list[tuple[str, bytes]], broken: list[tuple[str, bytes]], config: ClinicConfig
) -> None:
    """Write the first half of the patients as plain files, the next quarter as .zip, the last as .tar."""
    half = config.upload_patients // 2 * config.upload_fields
    rest = half + config.upload_patients // 4 * config.upload_fields
    for name, content in uploaded[:half] + broken:
        path = uploads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _write_zip(uploads / "courier.zip", uploaded[half:rest])
    _write_tar(uploads / "archive.tar", uploaded[rest:])


def _write_zip(path: Path, members: list[tuple[str, bytes]]) -> None:
    """Write an archive. Members are alternately stored and deflated, each in `patient/session-1/`."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, (name, content) in enumerate(members):
            patient, _, file = name.partition("/")
            # Without a date, a member would get the current time, and the bytes would differ each time.
            info = zipfile.ZipInfo(f"{patient}/session-1/{file}", date_time=(2026, 3, 14, 9, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if index % 2 else zipfile.ZIP_STORED
            archive.writestr(info, content)


def _write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
