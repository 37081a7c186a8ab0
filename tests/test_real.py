"""The whole job on real micrographs, where they lie beside the project; they never enter it."""

import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest

from spermseg.cli import run_verb
from spermseg.storage.filesystem import Location
from spermseg.table.receipt import list_runs, read_receipt
from spermseg.table.results import read_units
from spermseg.table.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "sperm-parsing"

pytestmark = [
    pytest.mark.real,
    pytest.mark.ray,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not REAL.is_dir(), reason="the micrographs of sperm-parsing are not beside this project"),
]


@pytest.fixture(scope="module", autouse=True)
def on_the_kept_cluster(kept_cluster: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", kept_cluster)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


def succeed(verb: str, *words: object) -> str:
    """Run a verb in this process; return what it says."""
    with redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        run_verb(verb, [str(word) for word in words])
    assert ended.value.code == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("real") / "dataset"
    printed = succeed(
        "prepare",
        *("--images", REAL / "images", "--annotations", REAL / "annotations", "--split", REAL / "split.csv"),
        *("--out", out, "--strict"),
    )
    assert "250 pictures: train 201 (7 groups), val 49 (3 groups)" in printed
    return out


@pytest.fixture(scope="module")
def model(dataset) -> Path:
    run = dataset.parent / "run"
    learn = ("train", "--recipe", "paper", "--augment", "none", "--pictures", 100, "--epochs", 3)
    succeed(*learn, "--dataset", dataset, "--out", run)
    return run / "model.safetensors"


def broken_files() -> dict[str, bytes]:
    """Six uploads that are not usable micrographs, each in its own way."""
    picture = next((REAL / "images").glob("*.jpg")).read_bytes()
    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    absurd = bytearray(png)
    absurd[16:24] = (40_000).to_bytes(4, "big") * 2
    return {
        "empty.jpg": b"",
        "truncated.jpg": picture[: len(picture) // 2],
        "notes.txt": b"sample 7 was spilt",
        "renamed.png": b"PK\x05\x06 this was never a picture",
        "absurd.png": bytes(absurd),
        "corrupt.jpg": picture[:600] + os.urandom(20) * 500,
    }


@pytest.fixture(scope="module")
def uploads(radosgw) -> Location:
    """The 49 validation images in a bucket, 30 as objects and 19 in a zip, and six broken files."""
    names = [line.split(",")[0] for line in (REAL / "split.csv").read_text().splitlines() if line.endswith(",val")]
    assert len(names) == 49
    place = radosgw.new_bucket()
    for name in names[:30]:
        place.child("uploads", "plain", name).write_bytes((REAL / "images" / name).read_bytes())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, name in enumerate(names[30:]):
            kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(f"session/{name}", (REAL / "images" / name).read_bytes(), kind)
    place.child("uploads", "courier.zip").write_bytes(packed.getvalue())
    for name, data in broken_files().items():
        place.child("uploads", "broken", name).write_bytes(data)
    return place


def test_three_epochs_of_the_paper_recipe_learn_real_cells(model, dataset, tmp_path):
    printed = succeed("evaluate", "--model", model, "--dataset", dataset, "--split", "val", "--out", tmp_path)
    assert "| network | pooled over pixels |" in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["n_images"] == 49
    assert metrics["network_resolution"]["pooled"]["dice"] > 0.4  # thresholding with Otsu gives 0.47 of whole pictures


def test_a_bucket_of_real_uploads_gives_one_row_each_and_a_second_night_plans_nothing(model, uploads):
    source, out = uploads.child("uploads"), uploads.child("results")
    words = ("segment", source.uri, "--model", model, "--out", out.uri, "--endpoint-url", uploads.endpoint_url)
    assert "planned 55, ok 49, rejected 6" in succeed(*words)
    assert "verified: 55 rows" in succeed("verify", out.uri, "--endpoint-url", uploads.endpoint_url)
    (run_id,) = list_runs(out)
    receipt = read_receipt(RunFolder(out, run_id))
    assert (receipt["planned"], receipt["ok"], receipt["rejected"]) == (55, 49, 6)
    rows = [row for table in read_units(out) for row in table.to_pylist()]
    rejected = {Path(row["uri"]).name: row["reason"] for row in rows if row["status"] == "rejected"}
    assert set(rejected) == set(broken_files())
    assert all(rejected.values())
    assert "planned 0" in succeed(*words)
    assert list(list_runs(out)) == [run_id]
