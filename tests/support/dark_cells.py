"""A model that is right by construction, pictures to go with it, and the pipeline's stages without Ray."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch

from spermseg.batch.night import Night
from spermseg.batch.pipeline import PipelineJob
from spermseg.batch.pool import Workers
from spermseg.batch.worker.messages import FetchUnits, UnitDone, unit_done
from spermseg.batch.worker.segment import SegmentUnit
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.cells.instances import CellConfig
from spermseg.errors import RunError
from spermseg.micrograph.tiling import Tiles
from spermseg.model.description import ModelDescription
from spermseg.model.predict import PredictConfig
from spermseg.model.saved import encode_model
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location

PALE, DARK = (225, 222, 236), (70, 20, 130)
VIEW = Tiles(scale=1.0, tile=64, halo=0)
HALF = Tiles(scale=0.5, tile=64, halo=0)
"""A view for which a JPEG is decoded at a half."""
CELLS = CellConfig(threshold=0.5, min_area=20)
PREDICT = PredictConfig(device="cpu", engine="torch", batch_megapixels=4 * 64**2 / 1e6)
"""PyTorch is ready at once. OpenVINO takes a second to compile a network."""


def darkness_model() -> bytes:
    """Return a model file whose network sees a cell wherever a pixel is dark: one number a layer does all of it."""
    config = UNetConfig(filters=(1,), bridge=1)
    weights = {name: torch.zeros_like(tensor) for name, tensor in UNet(config).state_dict().items()}
    for name, tensor in weights.items():
        if name.endswith("running_var") or name.split(".")[-2:] in (["1", "weight"], ["4", "weight"]):
            tensor.fill_(1.0)  # batch normalisation that changes nothing
    weights["encoder.0.0.weight"][0, :, 1, 1] = -1.0  # relu(2 - (red + green + blue)): 0 where it is pale
    weights["encoder.0.0.bias"].fill_(2.0)
    weights["encoder.0.3.weight"][0, 0, 1, 1] = 1.0
    weights["decoder.0.0.weight"][0, 1, 1, 1] = 1.0  # channel 1 is the skip
    weights["decoder.0.3.weight"][0, 0, 1, 1] = 1.0
    weights["head.weight"].fill_(10.0)
    weights["head.bias"].fill_(-5.0)
    description = ModelDescription(
        network=config,
        view=VIEW,
        threshold=CELLS.threshold,
        min_area=CELLS.min_area,
        recipe="darkness",
        settings={},
        training_data_sha256="0" * 64,
    )
    return encode_model(weights, description)


def draw(cells: int, height: int = 96, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Return (a pale picture with dark ellipses, their exact mask); up to 10 cells, none touching another."""
    pixels = np.full((height, width, 3), PALE, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for number in range(cells):
        centre = (16 + 30 * (number % 5), 24 + 44 * (number // 5))
        for picture, colour in ((pixels, DARK), (mask, 1)):
            cv2.ellipse(picture, centre, (10, 6 + number), 20 * number, 0, 360, colour, -1)
    return pixels, mask.astype(bool)


def picture(cells: int, suffix: str = ".png", **size: int) -> bytes:
    """Return a synthetic picture as a file."""
    done, data = cv2.imencode(suffix, draw(cells, **size)[0][..., ::-1])
    assert done
    return data.tobytes()


def zip_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a .zip, its members stored and deflated in turn."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (name, data) in enumerate(members):
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return file.getvalue()


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a .tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


GOOD = {f"patient-{n % 3}/{n}{suffix}": n for n, suffix in enumerate((".png", ".bmp", ".tif", ".jpg", ".png", ".bmp"))}
"""Name of a plain upload -> how many cells it shows."""
IN_ZIP = {f"patient-{n}/session-1/{n}.png": n for n in range(6)}
IN_TAR = {"patient-7/a.bmp": 7, "patient-8/b.png": 8}


def broken_uploads() -> dict[str, bytes]:
    """Return name -> content of uploads that are broken, each in a way of its own."""
    whole = picture(4)
    return {
        "broken/cut.png": whole[: len(whole) // 2],
        "broken/empty.jpg": b"",
        "broken/notes.jpg": b"Sample taken late. Please repeat.\n",
        "broken/huge.png": picture(0, height=1500, width=1000),
        "broken/monday.tgz": b"\x1f\x8b" + bytes(100),
        "broken/archive.zip": b"PK\3\4" + bytes(100),
        "broken/archive.tar": b"not a tar archive" * 64,
    }


REASONS = {
    "broken/cut.png": "truncated or corrupt PNG",
    "broken/empty.jpg": "the file is empty",
    "broken/notes.jpg": "not a JPEG, PNG, TIFF or BMP picture",
    "broken/huge.png": "1000 x 1500 px is 2 megapixels; at most 1 are allowed",
    "broken/monday.tgz": "the tar.gz archive's directory cannot be read",
    "broken/archive.zip": "the zip archive's directory cannot be read",
    "broken/archive.tar": "the tar archive's directory cannot be read",
    "courier.zip/broken/cut.jpg": "truncated or corrupt JPEG",
}
"""Name of a broken upload -> how its reason begins."""


def write_uploads(source: Location) -> None:
    """Write a night's uploads: plain files, a .zip, a .tar, and broken ones."""
    for name, cells in GOOD.items():
        source.child(name).write_bytes(picture(cells, "." + name.rpartition(".")[2]))
    members = [(name, picture(cells)) for name, cells in IN_ZIP.items()]
    cut = picture(2, ".jpg")
    source.child("courier.zip").write_bytes(zip_of([*members, ("broken/cut.jpg", cut[: len(cut) // 2])]))
    source.child("archive.tar").write_bytes(tar_of((name, picture(n, name[-4:])) for name, n in IN_TAR.items()))
    for name, data in broken_uploads().items():
        source.child(name).write_bytes(data)


EXPECTED = {
    **GOOD,
    **{f"courier.zip/{k}": n for k, n in IN_ZIP.items()},
    **{f"archive.tar/{k}": n for k, n in IN_TAR.items()},
}
"""Name of a good upload, an archive being a folder -> its cells."""
PLANNED = len(EXPECTED) + len(REASONS)


def name_of(row: dict[str, Any], source: Location) -> str:
    """Return the name of a row's upload as in `EXPECTED` and `REASONS`."""
    name = str(row["uri"]).removeprefix(source.uri + "/")
    return name + (f"/{row['member']}" if row["member"] else "")


def night_over(source: Location, out: Location, model: bytes, **changes: Any) -> Night:
    """Return a night with the settings of these pictures, in small units."""
    settings = SegmentSettings(view=VIEW, cells=CELLS, max_megapixels=1.0)
    night: dict[str, Any] = {
        "source": source,
        "out": out,
        "model": model,
        "settings": settings,
        "predict": PREDICT,
        "workers": Workers(count=1),
        "unit_micrographs": 4,
    }
    return Night(**(night | changes))


def run_in_process(
    job: PipelineJob, units: Iterable[int], workers: Workers, on_unit: Callable[[UnitDone], None]
) -> None:
    """Do what `run_pipeline` does, in this process and in order, without Ray."""
    segmenting = replace(job.segmenting(workers, use_gpu=False), bounded=False)
    segment = SegmentUnit(job.run, segmenting, workers.decode_threads)
    for number in units:
        (row,) = FetchUnits(job.run.plan, job.source)({"units": [number]})
        *_, done = segment(row)
        if done["kind"] == "failed":
            raise RunError(f"the run stopped: {done['failure']}")
        assert done["kind"] == "written"
        on_unit(unit_done(done))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
